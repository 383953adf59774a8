"""Matrix after matrix of a base with what parts make of it, against formulas by hand and PEFT's merges."""

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
from intruders.checkpoints.opening.open import open_checkpoint
from intruders.checkpoints.pairing.pairing import SkipKind
from intruders.checkpoints.stored.matrices import selected_matrices
from intruders.checkpoints.stored.selection import EVERY_MATRIX
from intruders.errors import PairingError
from tests.checkpoints.adapted import move
from tests.checkpoints.models import assert_tuned, differing, loaded, paired, refused, set_factors, tuned_of
from tests.checkpoints.renamed_families import FAMILIES, FAMILIES_CUT
from tests.tiny import save_lora, save_weights

QUERY, OUT, EMBEDDING = "layers.0.q.weight", "layers.0.o.weight", "embed_tokens.weight"


def drawn(**rows: int) -> dict[str, Tensor]:
    """A query matrix, and an output matrix and an embedding of as many rows, all of 4 columns."""
    torch.manual_seed(0)
    names = {"o": OUT, "tokens": EMBEDDING}
    return {QUERY: torch.randn(4, 4)} | {names[key]: torch.randn(count, 4) for key, count in rows.items()}


def test_what_a_sum_leaves_as_it_was_is_unchanged(tmp_path: Path) -> None:
    base = drawn()
    other = save_weights(tmp_path / "other", {QUERY: base[QUERY] + 1})
    # The base, rounded to the type that the tuned model was saved in.
    rounded = save_weights(tmp_path / "rounded", {QUERY: base[QUERY].bfloat16()})
    none = save_lora(tmp_path / "none", {"layers.0.q": (torch.zeros(4, 2), torch.ones(2, 4))})
    for tuned in (f"{other}@0", f"{other}+{other}@-1", rounded, none):
        pairing = paired(base, tuned)
        assert [pair.name for pair in pairing.pairs] == [QUERY]
        assert loaded(pairing) == {}


def test_what_no_part_holds_is_listed_with_its_reason() -> None:
    pairing = paired(drawn(o=4, tokens=8) | {"norm": torch.ones(4)}, drawn(o=3), EVERY_MATRIX)
    assert [pair.name for pair in pairing.pairs] == [QUERY]
    assert {skipped.name: (skipped.reason, skipped.kind) for skipped in pairing.skipped} == {
        EMBEDDING: ("missing in tuned", SkipKind.NO_COUNTERPART),
        OUT: ("other shape: (4, 4) and (3, 4)", SkipKind.OTHER_SHAPE),
        "norm": ("one-dimensional", SkipKind.OTHER),
    }


@pytest.mark.parametrize("tokens", [6, 11])
def test_embeddings_of_other_sizes_are_compared_on_the_tokens_that_both_have(tokens: int) -> None:
    before, after = drawn(tokens=8), {QUERY: torch.ones(4, 4), EMBEDDING: torch.randn(tokens, 4)}
    pairing = paired(before, after, EVERY_MATRIX)
    common = min(8, tokens)
    both = loaded(pairing)[EMBEDDING]
    assert torch.equal(both.base, before[EMBEDDING][:common])
    assert torch.equal(tuned_of(both), after[EMBEDDING][:common])
    [note] = pairing.matched
    assert note == f"'{EMBEDDING}' on the first {common} tokens; base has 8, tuned {tokens}"


def test_embeddings_of_other_sizes_in_parts_of_a_sum_are_left_out(tmp_path: Path) -> None:
    """The update of the one part has no rows for tokens that the other has."""
    parts = [save_weights(tmp_path / str(tokens), drawn(tokens=tokens)) for tokens in (6, 11)]
    pairing = paired(drawn(tokens=8), "+".join(f"{part}@0.5" for part in parts), EVERY_MATRIX)
    assert [pair.name for pair in pairing.pairs] == [QUERY]
    [skipped] = pairing.skipped
    assert (skipped.name, skipped.kind) == (EMBEDDING, SkipKind.OTHER_SHAPE)
    assert skipped.reason == "other shape in parts of the sum: (6, 4) and (8, 4)"
    assert pairing.matched == [], "none of a matrix that is not audited"


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
    views = {view.name: view for view in selected_matrices(before, EVERY_MATRIX)}
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
