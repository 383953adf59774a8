"""Mitigated checkpoints against the formula by dense decompositions, loaded by transformers."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoTokenizer

from intruders.checkpoints.opening.open import open_checkpoint
from intruders.checkpoints.writing.merged import planned_checkpoint
from intruders.errors import CheckpointError, NonFiniteError
from intruders.mitigation.mitigate import mitigate
from intruders.mitigation.mitigation_result import Mitigation
from intruders.mitigation.remedies.doses import Doses
from intruders.mitigation.remedies.shares import Interpolate
from intruders.mitigation.write_at_scale import write_at_scale
from tests.checkpoints.models import merged_weights, moved, saved, tiny_llama, tiny_mixtral, with_lora
from tests.mitigation.hot import (
    assert_share,
    deviation,
    hot_llama,
    hot_sides,
    medium_llama,
    mitigated,
    places_of_intruders,
    scaled,
    weights_of,
)
from tests.tiny import character_tokenizer

CLOSE = 1e-3


def tuned_in_full(base: nn.Module) -> nn.Module:
    """Every tensor changed: the matrices by a few strong directions and noise, the norms by noise."""
    hot: Any = hot_llama(model=copy.deepcopy(base), gain=3.0)
    return moved(hot.merge_and_unload(), 1e-3, 3)


def full_sides(folder: Path, base: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Save a base and what :func:`tuned_in_full` makes of it."""
    tuned = tuned_in_full(base)
    saved(base, folder / "base")
    saved(tuned, folder / "tuned")
    return base, tuned


def check(
    folder: Path, before: dict[str, Tensor], tuned: dict[str, Tensor], bar: float = CLOSE, **settings: Any
) -> tuple[Mitigation, dict[str, Tensor]]:
    """Mitigate the models of a folder at scale 0.3, and compare the written weights with the formula."""
    result = mitigated(folder, scale=0.3, form="checkpoint", **settings)
    found, changed = weights_of(folder / "out"), {matrix.name for matrix in result.matrices}
    assert changed
    for name, tensor in tuned.items():
        wanted = tensor.double()
        if name in changed:
            wanted = scaled(tensor, places_of_intruders(before[name], tensor), 0.3)
        assert deviation(found[name], wanted) < bar, name
    return result, found


@pytest.mark.parametrize("shard_bytes", [10**9, 30_000])
def test_adapter_as_checkpoint(tmp_path: Path, shard_bytes: int) -> None:
    targets = ["q_proj", "up_proj", "embed_tokens"]
    before, after = hot_sides(tmp_path, medium_llama(), gain=1.2, target_modules=targets)
    own = character_tokenizer()
    own.save_pretrained(tmp_path / "base")
    own.chat_template = "{{ messages[0]['content'] }}"
    own.add_special_tokens({"additional_special_tokens": ["<|im|>"]})  # for which the embedding has no row
    own.save_pretrained(tmp_path / "tuned")
    # The embedding's adapter is merged though embeddings are not mitigated.
    result, _ = check(tmp_path, before, after, shard_bytes=shard_bytes)
    assert not any("embed" in matrix.name for matrix in result.matrices)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.get_vocab() == character_tokenizer().get_vocab()
    assert tokenizer.chat_template == own.chat_template
    assert (tmp_path / "out" / "model.safetensors.index.json").exists() == (shard_bytes < 10**9)
    record = json.loads((tmp_path / "out" / "intruders.json").read_text())
    assert record["form"] == "checkpoint"
    assert record["totals"]["intruders_after"] == result.after.intruders


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_checkpoint_in_checkpoint_out(tmp_path: Path, dtype: torch.dtype) -> None:
    base, tuned = full_sides(tmp_path, medium_llama().to(dtype))
    bar = CLOSE if dtype == torch.float32 else 2**-7
    result, found = check(tmp_path, base.state_dict(), tuned.state_dict(), bar)
    assert {tensor.dtype for tensor in found.values()} == {dtype}
    assert len(result.matrices) > 5
    assert all(matrix.rank_after is None for matrix in result.matrices)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_a_tuned_model_in_single_precision_keeps_updates_that_the_type_of_its_base_loses(
    share: float, tmp_path: Path
) -> None:
    """``W0 + s D`` in double precision, of updates a hundred times finer than bfloat16 resolves."""
    base = tiny_llama().to(torch.bfloat16)
    saved(base, tmp_path / "base")
    tuned = moved(copy.deepcopy(base).float(), 1e-5, 3)
    saved(tuned, tmp_path / "tuned")
    mitigated(tmp_path, remedy=Interpolate(alpha=share), check=False)
    before, after, now = base.state_dict(), tuned.state_dict(), weights_of(tmp_path / "out")
    assert {tensor.dtype for tensor in now.values()} == {torch.float32}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float32"
    assert_share(now, before, after, share, rtol=2**-23, atol=0)


@pytest.mark.parametrize(
    ("base", "tuned", "written"),
    [
        (torch.float16, torch.bfloat16, torch.float32),
        (torch.float32, torch.bfloat16, torch.float32),
        (torch.float8_e4m3fn, torch.bfloat16, torch.float32),  # read in single precision
        (torch.int64, torch.float32, torch.int64),
    ],
)
def test_the_written_type_holds_both(base: torch.dtype, tuned: torch.dtype, written: torch.dtype) -> None:
    sides = [
        open_checkpoint({"a.weight": torch.ones(4, 4), "b.weight": torch.ones(3, 3).to(dtype)})
        for dtype in (base, tuned)
    ]
    tensor = planned_checkpoint(*sides, {})["b.weight"]
    assert tensor.dtype == written


def test_a_tensor_in_full_that_the_type_of_the_base_cannot_hold_is_refused(tmp_path: Path) -> None:
    base = tiny_llama().half()
    saved(base, tmp_path / "base")
    model = hot_llama(model=tiny_llama(), target_modules=["q_proj"], modules_to_save=["norm"])
    model.base_model.model.model.norm.modules_to_save["default"].weight.data[0] = 1e5
    saved(model, tmp_path / "tuned")
    with pytest.raises(NonFiniteError, match=r"'model\.norm\.weight' .* written in float16"):
        write_at_scale(tmp_path / "base", tmp_path / "tuned", 1.0, tmp_path / "out", form="checkpoint")


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.q_proj.weight", "model.norm.weight"])
def test_what_the_type_of_the_base_cannot_hold_is_refused(tmp_path: Path, name: str) -> None:
    """60,000 is a number of half precision; half as much again is none."""
    base = tiny_llama().half()
    saved(base, tmp_path / "base")
    tuned = tuned_in_full(base)
    tuned.state_dict()[name].view(-1)[0] = 60_000
    saved(tuned, tmp_path / "tuned")
    doses = Doses(doses={key: [1.0] for key in tuned.state_dict()} | {name: [1.5]})
    said = rf"'{name}' .* written in float16, whose largest number is 65504"
    with pytest.raises(NonFiniteError, match=said):
        mitigated(tmp_path, remedy=doses)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "settings",
    [
        {"use_dora": True},
        {"init_lora_weights": "pissa"},
        {"modules_to_save": ["norm"], "target_modules": ["q_proj", "v_proj"]},
    ],
)
def test_what_is_not_a_plain_sum_becomes_a_checkpoint(tmp_path: Path, settings: dict[str, Any]) -> None:
    base = medium_llama()
    saved(base, tmp_path / "base")
    model = hot_llama(model=copy.deepcopy(base), **settings)
    moved(model, 0.5, 0, only=lambda name, parameter: "modules_to_save" in name)
    saved(model, tmp_path / "tuned")
    check(tmp_path, base.state_dict(), merged_weights(model))


def test_a_sum_of_adapters(tmp_path: Path) -> None:
    (before, one), (_, two) = (hot_sides(tmp_path / f"{seed}", tiny_llama(), seed=seed) for seed in (1, 2))
    tuned = {n: old + 0.7 * (one[n] - old) + 0.4 * (two[n] - old) for n, old in before.items()}
    saved(tiny_llama(), tmp_path / "base")
    both = f"{tmp_path / '1' / 'tuned'}@0.7+{tmp_path / '2' / 'tuned'}@0.4"
    check(tmp_path, before, tuned, source=both)


def test_without_a_config_there_is_no_checkpoint(tmp_path: Path) -> None:
    base, tuned = full_sides(tmp_path, tiny_llama())
    (tmp_path / "tuned" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        mitigated(tmp_path, scale=0.3)
    assert not (tmp_path / "out").exists()
    with pytest.raises(CheckpointError, match="is in memory; pass paths"):
        mitigate(base.state_dict(), tuned.state_dict(), scale=0.3, out=tmp_path / "out")


def test_experts_that_the_base_has_one_by_one_are_written_and_audited_again(tmp_path: Path) -> None:
    """The adapter acts on stacks of them; the written checkpoint has the names of the base's file."""
    base = tiny_mixtral()
    saved(base, tmp_path / "base")
    parameters = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    saved(with_lora(copy.deepcopy(base), target_parameters=parameters), tmp_path / "tuned")
    result = mitigated(tmp_path, scale=0.3, form="checkpoint")
    assert [m.name for m in result.after.matrices] == [m.name for m in result.before.matrices]
    assert any("experts" in matrix.name for matrix in result.matrices)
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert written.keys() == load_file(tmp_path / "base" / "model.safetensors").keys()
