"""The house does not grow unseen: no size is above its bound in ``sizes.toml``, and no bound far above its size."""

import pytest

from tests.house.size import counted, slack, written

TABLES = ("lines", "modules", "beside", "ties")


@pytest.mark.parametrize("table", TABLES)
def test_nothing_grows_without_a_line_in_sizes_toml(table: str) -> None:
    """What must grow gets its new number there, with the reason behind ``#``, in the same commit."""
    bounds = written()[table]
    sizes = counted()[table]
    assert {
        name: f"{size}, above {bounds.get(name, 0)}"
        for name, size in sizes.items()
        if size > bounds.get(name, 0)
    } == {}


@pytest.mark.parametrize("table", TABLES)
def test_a_size_that_fell_stays_down(table: str) -> None:
    """``python -m tests.house.size`` lowers the numbers."""
    sizes = counted()[table]
    bounds = written()[table]
    assert {
        name: f"{sizes.get(name, 0)}, below {bound}"
        for name, bound in bounds.items()
        if sizes.get(name, 0) < bound - slack(bound)
    } == {}
