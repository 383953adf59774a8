"""What a count does not depend on: settings of the process, threads, and what a matrix is decided with."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch

from intruders.engine import decide as decide_module
from intruders.engine.components import leading_components
from intruders.engine.decide import decide
from intruders.engine.decisions import Decisions
from intruders.linalg.operators import Dense
from intruders.linalg.pair import Pair
from intruders.linalg.whole_base import WholeBase
from tests.engine.test_decide_waits import batch_of

SHAPES = [(320, 320), (400, 300), (300, 400), (140, 200)]


@pytest.fixture(scope="module", params=SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}")
def batch(request: pytest.FixtureRequest) -> Pair:
    """Matrices with and without intruders."""
    strengths = (0.05, 1.0, 0.3, 1.0)
    alone = [batch_of(request.param, strength, [seed]) for seed, strength in enumerate(strengths)]
    return Pair.joined([one.select(0) for one in alone])


@pytest.fixture(scope="module")
def exact(batch: Pair) -> Decisions:
    """By dense decompositions."""
    return decide(batch, 10, 0.5, exact=True)


@contextmanager
def medium() -> Iterator[None]:
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def decisions(detection: Decisions) -> tuple[object, object]:
    return detection.intruder.tolist(), detection.ambiguous.tolist()


def assert_identical(detection: Decisions, other: Decisions) -> None:
    """Bit for bit: decisions, certificates, bounds and values."""
    assert decisions(detection) == decisions(other)
    assert detection.certificate == other.certificate
    for name in ("values", "lower", "upper", "similarity", "base_values"):
        assert torch.equal(getattr(detection, name), getattr(other, name)), name


@pytest.mark.parametrize("around", [medium, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_precision_changes_nothing(around: Callable[[], AbstractContextManager[object]], batch: Pair) -> None:
    expected = decide(batch, 10, 0.5)
    assert 0 < int(expected.intruder.sum()) < expected.intruder.numel()
    with around():
        assert_identical(decide(batch, 10, 0.5), expected)


def test_decompositions_of_bases_are_the_same_too(batch: Pair) -> None:
    whole, leading = WholeBase.of(batch.base), leading_components(Dense(batch.base[0]), 5)
    with medium():
        again, leading_again = WholeBase.of(batch.base), leading_components(Dense(batch.base[0]), 5)
    assert torch.equal(whole.left, again.left)
    assert torch.equal(whole.rounded, again.rounded)
    assert torch.equal(leading.left, leading_again.left)


@pytest.mark.parametrize("count", [2, pytest.param(7, marks=pytest.mark.slow)])
def test_threads_change_no_decision(count: int, batch: Pair, exact: Decisions) -> None:
    with threads(count):
        detection = decide(batch, 10, 0.5)
    assert decisions(detection) == decisions(exact)


def test_uncovered_devices_are_exact(batch: Pair, exact: Decisions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decide_module, "is_covered", lambda device: False)
    detection = decide(batch, 10, 0.5)
    assert {name for row in detection.certificate for name in row} == {"exact"}
    assert_identical(detection, exact)
    # Double precision has no such assumption.
    double = decide(batch.double(), 10, 0.5)
    assert {name for row in double.certificate for name in row} != {"exact"}
    assert decisions(double) == decisions(exact)
