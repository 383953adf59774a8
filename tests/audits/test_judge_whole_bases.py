"""When a fleet decomposes a base matrix whole, and that its answers stay those of separate audits."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import Tensor

import intruders
from intruders.audits import judge
from intruders.audits.base_cache import MemoryCache
from intruders.audits.batches import UpdatesAhead
from intruders.audits.judge import AuditsAhead
from intruders.linalg.whole_base import WholeBase
from tests.tiny import lora

SIDE, ADAPTERS = 288, 6


@pytest.fixture
def decomposed(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The shapes of the bases that are decomposed whole, as they are."""
    shapes: list[torch.Size] = []
    made = WholeBase.of

    def noted(matrix: Tensor) -> WholeBase:
        shapes.append(matrix.shape)
        return made(matrix)

    monkeypatch.setattr(WholeBase, "of", noted)
    return shapes


def base_and_tuned(size: float) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(SIDE, SIDE, generator=generator) * torch.arange(1, SIDE + 1) ** -0.5
    tuned = []
    for _ in range(ADAPTERS):
        a, b = (torch.randn(shape, generator=generator) for shape in ((2, SIDE), (SIDE, 2)))
        tuned.append(lora({"up": (size * b / SIDE**0.5, a / SIDE**0.5)}))
    return {"up.weight": base}, tuned


@pytest.mark.parametrize(("size", "pays"), [(80.0, True), (0.1, False)])
def test_adapters_with_intruders_pay_for_it(size: float, pays: bool, decomposed: list[torch.Size]) -> None:
    base, tuned = base_and_tuned(size)
    alone = [intruders.audit(base, one, cache=False) for one in tuned]
    store = MemoryCache()
    fleet = intruders.audit_fleet(base, tuned, cache=store)
    assert decomposed == ([(1, SIDE, SIDE)] if pays else [])
    for number, audit in enumerate(alone):
        mine = fleet.audit(number)
        assert mine.intruders == audit.intruders
        for one, other in zip(mine.matrices[0].vectors, audit.matrices[0].vectors, strict=True):
            assert one.intruder == other.intruder
            assert other.max_cosine[0] - 1e-3 <= one.max_cosine[0] <= one.max_cosine[1] <= 1.0
            assert one.max_cosine[1] >= other.max_cosine[0] - 1e-3
    certificates = [vector.certificate for vector in fleet.audit(ADAPTERS - 1).matrices[0].vectors]
    assert ("coordinates" in certificates) == pays
    assert all(known.whole() is None for known in store._entries.values())


def test_small_updates_do_not_hide_the_large_ones(decomposed: list[torch.Size]) -> None:
    """The smallest is decided first, and says nothing of the others; the size of each does."""
    base, large = base_and_tuned(80.0)
    _, small = base_and_tuned(0.1)
    fleet = intruders.audit_fleet(base, [*small[:3], *large[3:]], cache=MemoryCache())
    assert len(decomposed) == 1
    alone = [intruders.audit(base, one, cache=False).intruders for one in [*small[:3], *large[3:]]]
    assert [fleet.audit(number).intruders for number in range(ADAPTERS)] == alone
    assert alone[:3] == [0, 0, 0]
    assert min(alone[3:]) > 0


def test_updates_of_several_ranks_pay_together(
    monkeypatch: pytest.MonkeyPatch, decomposed: list[torch.Size]
) -> None:
    """Three large updates pay, and here no rank has more than two."""
    monkeypatch.setattr(judge, "_PAID_BY_ONE", SIDE**2 / 3)
    base, tuned = base_and_tuned(80.0)
    wider = {name: tensor.repeat((2, 1) if "_A" in name else (1, 2)) for name, tensor in tuned[1].items()}
    intruders.audit_fleet(base, tuned[2:4], cache=MemoryCache())
    assert decomposed == []
    intruders.audit_fleet(base, [*tuned[2:4], wider], cache=MemoryCache())
    assert len(decomposed) == 1


def test_updates_that_are_not_read_are_taken_to_be_like_the_others() -> None:
    assert UpdatesAhead([0.5, 1.0, 2.0, 0.0], unread=0).expected_from(1.0) == 2
    assert UpdatesAhead([0.5, 1.0, 2.0, 0.0], unread=6).expected_from(1.0) == 5
    assert UpdatesAhead([], unread=6).expected_from(1.0) == 0


@pytest.mark.parametrize(("ahead", "size", "pays"), [(6, 80.0, True), (2, 80.0, False), (6, 0.1, False)])
def test_audits_ahead_pay_for_it(ahead: int, size: float, pays: bool) -> None:
    """The second audit of a training knows that a matrix has intruders, and how many audits are to come."""
    base, tuned = base_and_tuned(size)
    store = AuditsAhead()
    certificates = []
    for number, model in enumerate(tuned[:2]):
        store.expect(ahead - number)
        audit = intruders.audit(base, model, cache=store)
        assert audit.intruders == intruders.audit(base, model, cache=False).intruders
        certificates.append({vector.certificate for vector in audit.matrices[0].vectors})
    assert "coordinates" not in certificates[0]
    assert (certificates[1] == {"coordinates"}) == pays
    again = intruders.audit(base, tuned[1], cache=store)  # what was decomposed stays
    assert (again.matrices[0].vectors[0].certificate == "coordinates") == pays


def test_a_copy_begins_anew() -> None:
    """A callback is pickled with its Trainer's state."""
    store = AuditsAhead()
    base, tuned = base_and_tuned(80.0)
    intruders.audit(base, tuned[0], cache=store)
    assert len(store._entries) == 1
    assert pickle.loads(pickle.dumps(store))._entries == {}


def test_whole_bases_of_a_training_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "_MOST_BYTES", 4 * 2 * SIDE * SIDE - 1)
    base, tuned = base_and_tuned(80.0)
    store = AuditsAhead()
    for model in tuned[:2]:
        store.expect(100)
        audit = intruders.audit(base, model, cache=store)
    assert "coordinates" not in {vector.certificate for vector in audit.matrices[0].vectors}
