"""Options, columns, keys and ids that files and scripts of users rest on stay as they are written down."""

import pytest

from tests.house.pinned_facts import FACTS, HERE


@pytest.mark.parametrize("name", sorted(FACTS))
def test_nothing_that_users_rest_on_has_changed(name: str) -> None:
    """After a change that is meant: ``python -m tests.house.pinned_facts``, and read the difference."""
    pinned = (HERE / "pinned" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    assert FACTS[name]() == pinned
