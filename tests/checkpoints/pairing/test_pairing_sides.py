"""Matrix after matrix of a base with what parts make of it, against sums in double precision and PEFT's merges."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import intruders
from intruders.checkpoints.adapters.adapter import AdaptedWeight
from intruders.checkpoints.opening.open import open_checkpoint
from intruders.checkpoints.pairing.pair_sides import Rows, paired_rows
from intruders.checkpoints.pairing.pairing import SkipKind
from intruders.checkpoints.pairing.side import Side
from intruders.checkpoints.stored.checkpoint import Checkpoint, StoredTensor
from intruders.checkpoints.stored.matrices import every_matrix
from intruders.checkpoints.stored.selection import Selection
from intruders.errors import PairingError
from intruders.linalg.low_rank import LowRank
from tests.checkpoints.adapted import move
from tests.checkpoints.models import assert_tuned, differing, refused, set_factors
from tests.checkpoints.renamed_families import FAMILIES, FAMILIES_CUT
from tests.tiny import save_weights

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


LINEAR = {"target_modules": "all-linear"}
ATTENTION = {"target_modules": r".*(q_proj|v_proj)"}
EXPERTS = {"target_modules": [], "target_parameters": ["experts.gate_up_proj", "experts.down_proj"]}
# By family: what is adapted, and how many of the file's matrices that are.
ADAPTED: dict[str, tuple[dict[str, Any], int]] = {
    "gpt_neox": ({"target_modules": ["query_key_value", "lm_head"]}, 3),
    "exaone": (LINEAR, 14),
    "phimoe": ({"target_modules": ["q_proj", "router"]}, 4),
    "granitemoe": (EXPERTS, 16),
    "vit": (LINEAR, 13),
    "beit": (ATTENTION, 4),
    "swin": (ATTENTION, 4),
    "segformer": (ATTENTION, 4),
    "dinov2": (ATTENTION, 4),
    "whisper": ({"target_modules": ["q_proj", "proj_out"]}, 4),
    "internvl": (ATTENTION, 8),
}


def adapter_on(family: str, folder: Path, settings: dict[str, Any]) -> tuple[Path, Path, Path]:
    """Base, adapter and PEFT's merge of both, on disk."""
    base, adapter, merged = (folder / name for name in ("base", "adapter", "merged"))
    torch.manual_seed(0)
    model = FAMILIES[family]()
    model.save_pretrained(base)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, lora_alpha=4, **settings))
    move(adapted, seed=1, size=0.5)
    adapted.save_pretrained(adapter)
    adapted.merge_and_unload().save_pretrained(merged)
    return base, adapter, merged


@pytest.mark.parametrize("family", ADAPTED)
def test_an_adapter_on_renamed_modules_is_audited_as_peft_merges_it(family: str, tmp_path: Path) -> None:
    settings, count = ADAPTED[family]
    base, adapter, merged = adapter_on(family, tmp_path, settings)
    audit = intruders.audit(base, adapter, include_embeddings=True, cache=False)
    before, after = open_checkpoint(str(base)), open_checkpoint(str(merged))
    views = every_matrix(before)
    assert len(audit.matrices) == count
    for matrix in audit.matrices:
        own = "model.decoder.embed_tokens.weight" if matrix.name == "proj_out.weight" else matrix.name
        tensor = views[own].tensor
        dense = [views[own].read(side.tensors[tensor]).double().numpy() for side in (before, after)]
        x = np.linalg.svd(dense[0], full_matrices=False)[0]
        y, values, _ = np.linalg.svd(dense[1], full_matrices=False)
        kept = len(matrix.vectors)
        assert np.allclose([vector.singular_value for vector in matrix.vectors], values[:kept], rtol=1e-3)
        assert matrix.intruders == int((np.abs(x.T @ y[:, :kept]).max(axis=0) < 0.5).sum())
    assert audit.intruders > 0
    # PEFT adds the update of Whisper's head to the head alone, and merges it into the embedding too.
    others = ["model.decoder.embed_tokens.weight"] if family == "whisper" else []
    assert [other.name for other in intruders.verify(base, adapter, merged).others] == others


def test_an_adapter_whose_weights_were_cut_on_loading_is_told_to_be_merged(tmp_path: Path) -> None:
    """nomic-bert's file has q, k and v as one tensor, which transformers cuts."""
    folder = tmp_path / "base"
    model = FAMILIES_CUT["nomic_bert"]()
    model.save_pretrained(folder)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    adapted.save_pretrained(tmp_path / "adapter")
    with refused(re.escape("merge the adapter with PEFT (merge_and_unload"), PairingError):
        intruders.audit(folder, tmp_path / "adapter", cache=False)


class WithAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(32, 4)
        self.out = nn.Linear(32, 32)

    def forward(self, inputs: Any) -> Any:
        return self.out(self.attn(inputs, inputs, inputs)[0])


def test_it_is_refused_and_its_merge_is_audited(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = WithAttention()
    base = save_weights(tmp_path / "base", model.state_dict())
    adapted: Any = peft.get_peft_model(
        copy.deepcopy(model), peft.LoraConfig(r=2, lora_alpha=4, target_modules=["attn", "out"])
    )
    set_factors(adapted, 1.0, 1)
    adapted.save_pretrained(tmp_path / "adapter")
    with refused(r"changes 'attn', which in .* is torch's MultiheadAttention; .* merge the", PairingError):
        intruders.audit(base, tmp_path / "adapter")
    merged = save_weights(tmp_path / "merged", adapted.merge_and_unload().state_dict())
    different, after = differing(base, merged), load_file(merged / "model.safetensors")
    assert different.keys() == {"attn.in_proj_weight", "attn.out_proj.weight", "out.weight"}
    assert_tuned(different, after, atol=0, rtol=0)
