"""One matrix of a base and many models of it: batches, what is hashed once, and bases that are worth a whole SVD."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch
import xxhash
from torch import Tensor

import intruders
from intruders.audits import judge
from intruders.audits.audit_settings import AuditSettings
from intruders.audits.base_cache import BaseKeys, MemoryCache
from intruders.audits.batches import (
    BATCH_UPDATES,
    Batch,
    UpdatesAhead,
    read_batches,
)
from intruders.audits.judge import AuditsAhead, judge_batch
from intruders.checkpoints.pairing.pairing import PairedMatrix
from intruders.linalg.low_rank import LowRank
from intruders.linalg.pair import Pair
from intruders.linalg.whole_base import WholeBase
from tests.audits.test_prepare_base import adapter_of, falling

K = 5
SETTINGS = AuditSettings(k=K)
CPU = torch.device("cpu")
GENERATOR = np.random.default_rng(0)
BASE = torch.from_numpy(GENERATOR.standard_normal((60, 45)) / 5).float()


def update(size: float, rank: int = 2) -> LowRank:
    """Random directions of that spectral size."""
    left, right = GENERATOR.standard_normal((60, rank)), GENERATOR.standard_normal((rank, 45))
    factor = size / np.linalg.norm(left @ right, 2)
    return LowRank(torch.from_numpy(factor * left).float(), torch.from_numpy(right).float())


def of(tuned: Tensor | LowRank) -> PairedMatrix:
    return PairedMatrix("h.0.weight", (60, 45), None, lambda: Pair(BASE, tuned))


def test_updates_share_batches_with_those_of_their_size_and_rank() -> None:
    sizes = [float(size) for size in GENERATOR.permutation(np.linspace(0.1, 9, 30))]
    models = [of(update(size)) for size in sizes] + [of(update(1.0, rank=3)), of(BASE + update(1.0).dense())]
    batches = list(read_batches([list(enumerate(models))], CPU))
    by_rank: dict[int | None, list[Batch]] = {}
    for batch in batches:
        by_rank.setdefault(batch.pair.rank, []).append(batch)
    assert [len(batch.models) for batch in by_rank[2]] == [BATCH_UPDATES, BATCH_UPDATES, 6]
    in_turn = [model for batch in by_rank[2] for model in batch.models]
    assert in_turn == sorted(range(30), key=lambda model: float(models[model].load().update.norm()))  # type: ignore[union-attr]
    assert [batch.models for batch in (*by_rank[3], *by_rank[None])] == [[30], [31]]
    assert len({id(batch.shared) for batch in batches}) == 1  # the base is widened once


def test_the_bytes_of_a_base_matrix_are_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking a matrix up and keeping what was learned of it name it alike; hashing it is a pass over its bytes."""
    hashed: list[int] = []
    digest = xxhash.xxh3_128

    def counted(data: memoryview | bytes) -> Any:
        hashed.append(memoryview(data).nbytes)
        return digest(data)

    monkeypatch.setattr(xxhash, "xxh3_128", counted)
    models = [of(update(size, rank)) for rank in (1, 2) for size in (0.5, 6.0)]
    store = MemoryCache()
    for batch in read_batches([list(enumerate(models))], CPU):
        judge_batch(batch, SETTINGS, store)
    assert hashed == [BASE.nbytes]
    assert store.get(BaseKeys.of(BASE, K).leading) is not None


# --- when a fleet decomposes a base matrix whole, and that its answers stay those of separate audits

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
    base = falling((SIDE, SIDE))
    return base, [adapter_of(base, size, seed) for seed in range(1, ADAPTERS + 1)]


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


def test_several_ranks_pay_together(monkeypatch: pytest.MonkeyPatch, decomposed: list[torch.Size]) -> None:
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
        store.expected = ahead - number
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
        store.expected = 100
        audit = intruders.audit(base, model, cache=store)
    assert "coordinates" not in {vector.certificate for vector in audit.matrices[0].vectors}
