"""Matrix after matrix of a base with what parts make of it, against sums in double precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from intruders.checkpoints.adapters.adapter import AdaptedWeight
from intruders.checkpoints.pairing.pair_sides import Rows, paired_rows
from intruders.checkpoints.pairing.pairing import SkipKind
from intruders.checkpoints.pairing.side import Side
from intruders.checkpoints.stored.checkpoint import Checkpoint, StoredTensor
from intruders.checkpoints.stored.selection import Selection
from intruders.linalg.low_rank import LowRank

QUERY, OUT = "layers.0.q.weight", "layers.0.o.weight"
HEAD, EMBEDDING = "lm_head.weight", "embed_tokens.weight"
GENERATOR = torch.Generator().manual_seed(0)


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=GENERATOR)


def checkpoint(tied: dict[str, str] | None = None, **tensors: Tensor) -> Checkpoint:
    stored = {
        name: StoredTensor(tuple(tensor.shape), tensor.dtype, "F32", lambda tensor=tensor: tensor)  # type: ignore[misc]
        for name, tensor in tensors.items()
    }
    return Checkpoint("base", "checkpoint", "memory", stored, tied=tied or {})


def in_full(base: Checkpoint, **tensors: Tensor) -> Side:
    part = checkpoint(**tensors)
    return Side(part, base, {}, part.tensors, ("missing in tuned", SkipKind.NO_COUNTERPART), [], [])


def low_rank(base: Checkpoint, **updates: LowRank) -> Side:
    weights = {
        name: AdaptedWeight(
            name, base.shape(name), update.rank, 1.0, "lora", lambda *given, update=update: update
        )  # type: ignore[arg-type, misc]
        for name, update in updates.items()
    }
    return Side(checkpoint(), base, weights, {}, ("unchanged", SkipKind.UNCHANGED), [], [])


def rows_of(
    base: Checkpoint, *sides: tuple[Side, float], is_sum: bool = True, everything: bool = False
) -> Rows:
    return paired_rows(base, sides, Selection(include_embeddings=everything), is_sum)


def test_a_sum_is_the_base_and_the_weighted_updates_and_stays_in_factors_where_all_are() -> None:
    w = {QUERY: drawn(6, 5), OUT: drawn(4, 6)}
    base = checkpoint(**w)
    first = low_rank(
        base, **{QUERY: LowRank(drawn(6, 2), drawn(2, 5)), OUT: LowRank(drawn(4, 1), drawn(1, 6))}
    )
    second = low_rank(base, **{QUERY: LowRank(drawn(6, 1), drawn(1, 5))})
    other = drawn(4, 6)
    third = in_full(base, **{OUT: other})
    rows = rows_of(base, (first, 0.5), (second, -2.0), (third, 0.25))
    q, o = rows.pairs
    assert [(q.name, q.rank), (o.name, o.rank)] == [(QUERY, 3), (OUT, None)]
    both = q.load()
    assert both is not None
    assert isinstance(both.tuned, LowRank)
    changes = [side.updates[QUERY].change(w[QUERY], None) for side in (first, second)]
    wanted = sum(
        weight * update.left.double() @ update.right.double()  # type: ignore[union-attr]
        for weight, update in zip((0.5, -2.0), changes, strict=True)
    )
    # Products and sums of a few numbers in single precision.
    torch.testing.assert_close(both.tuned.dense().double(), wanted, atol=1e-5, rtol=1e-5)
    both = o.load()
    assert both is not None
    update = first.updates[OUT].change(w[OUT], None)
    wanted = w[OUT].double() + 0.5 * update.left.double() @ update.right.double()  # type: ignore[union-attr]
    wanted = wanted + 0.25 * (other.double() - w[OUT].double())
    torch.testing.assert_close(both.tuned.double(), wanted, atol=1e-5, rtol=1e-5)  # type: ignore[union-attr]


def test_what_a_sum_leaves_as_it_was_is_unchanged() -> None:
    w = {QUERY: drawn(6, 5)}
    base = checkpoint(**w)
    other = in_full(base, **{QUERY: w[QUERY] + 1})
    [pair] = rows_of(base, (other, 0.0)).pairs
    assert pair.load() is None
    [pair] = rows_of(base, (other, 1.0), (other, -1.0)).pairs
    assert pair.load() is None
    none = low_rank(base, **{QUERY: LowRank(torch.zeros(6, 2), drawn(2, 5))})
    [pair] = rows_of(base, (none, 1.0), is_sum=False).pairs
    assert pair.load() is None
    [pair] = rows_of(base, (in_full(base, **{QUERY: w[QUERY].bfloat16()}), 1.0), is_sum=False).pairs
    assert pair.load() is None, "the base, rounded to the type that the tuned model was saved in"


def test_what_no_part_holds_is_listed_with_its_reason() -> None:
    base = checkpoint(
        {HEAD: EMBEDDING}, **{EMBEDDING: drawn(8, 4), QUERY: drawn(4, 4), OUT: drawn(4, 4), "norm": drawn(4)}
    )
    rows = rows_of(
        base, (in_full(base, **{QUERY: drawn(4, 4), OUT: drawn(3, 4)}), 1.0), is_sum=False, everything=True
    )
    assert [pair.name for pair in rows.pairs] == [QUERY]
    assert {skipped.name: (skipped.reason, skipped.kind) for skipped in rows.skipped} == {
        EMBEDDING: ("missing in tuned", SkipKind.NO_COUNTERPART),
        HEAD: (f"the same tensor as '{EMBEDDING}'", SkipKind.OTHER),
        OUT: ("other shape: (4, 4) and (3, 4)", SkipKind.OTHER_SHAPE),
        "norm": ("one-dimensional", SkipKind.OTHER),
    }


@pytest.mark.parametrize("tokens", [6, 11])
def test_embeddings_of_other_sizes_are_compared_on_the_tokens_that_both_have(tokens: int) -> None:
    before, after = drawn(8, 4), drawn(tokens, 4)
    base = checkpoint(**{EMBEDDING: before})
    rows = rows_of(base, (in_full(base, **{EMBEDDING: after}), 1.0), is_sum=False, everything=True)
    [pair] = rows.pairs
    common = min(8, tokens)
    assert pair.shape == (common, 4)
    both = pair.load()
    assert both is not None
    assert torch.equal(both.base, before[:common])
    assert torch.equal(both.tuned, after[:common])  # type: ignore[arg-type]
    [note] = rows.notes
    assert note == f"'{EMBEDDING}' on the first {common} tokens; base has 8, tuned {tokens}"


def test_embeddings_of_other_sizes_in_parts_of_a_sum_are_left_out() -> None:
    """The update of the one part has no rows for tokens that the other has."""
    base = checkpoint(**{EMBEDDING: drawn(8, 4), QUERY: drawn(4, 4)})
    first, second = (in_full(base, **{EMBEDDING: drawn(tokens, 4), QUERY: drawn(4, 4)}) for tokens in (6, 11))
    rows = rows_of(base, (first, 0.5), (second, 0.5), everything=True)
    assert [pair.name for pair in rows.pairs] == [QUERY]
    [skipped] = rows.skipped
    assert (skipped.name, skipped.kind) == (EMBEDDING, SkipKind.OTHER_SHAPE)
    assert skipped.reason == "other shape in parts of the sum: (6, 4) and (8, 4)"
    assert rows.notes == [], "none of a matrix that is not audited"
