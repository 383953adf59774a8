"""The complete update at one scale: PEFT's own merge of what was written, and tensors scaled by hand."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from intruders.audits.audit_settings import AuditSettings
from intruders.checkpoints.stored.selection import Selection
from intruders.errors import CheckpointError, NonFiniteError, SettingError
from intruders.mitigation.remedies.shares import Interpolate
from intruders.mitigation.write_at_scale import WrittenScale, write_at_scale
from tests.checkpoints.models import merged_weights, moved, saved, tiny_llama
from tests.mitigation.hot import hot_llama, medium_llama, mitigated
from tests.tiny import character_tokenizer

# Weights are written in single precision.
CLOSE = 1e-6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, an adapter that also changes the embeddings, and a fine-tuning of every tensor."""
    folder = tmp_path_factory.mktemp("scale")
    base = medium_llama()
    saved(base, folder / "base")
    character_tokenizer().save_pretrained(folder / "base")
    saved(hot_llama(model=copy.deepcopy(base), target_modules=["q_proj", "embed_tokens"]), folder / "adapter")
    full = moved(copy.deepcopy(base), 0.1, 0)
    saved(full, folder / "full")
    return folder


def weights(folder: Path, adapter: Path | None = None) -> dict[str, Tensor]:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    if adapter is None:
        return {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return merged_weights(PeftModel.from_pretrained(model, adapter))


@pytest.mark.parametrize("scale", [-0.2, 0.0, 0.4, 1.0, 1.3])
@pytest.mark.parametrize(
    ("tuned", "form"), [("adapter", "auto"), ("adapter", "checkpoint"), ("full", "auto")]
)
def test_every_tensor_has_that_share_of_its_update(
    folder: Path, tmp_path: Path, tuned: str, form: str, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("intruders.linalg.products._AT_ONCE", 500)  # of 160 columns: three rows
    written = write_at_scale(folder / "base", folder / tuned, scale, tmp_path / "out", form=form)
    is_adapter = written.form == "adapter"
    assert is_adapter is (tuned == "adapter" and form == "auto")
    before = weights(folder / "base")
    after = weights(folder / "base", folder / tuned) if tuned == "adapter" else weights(folder / tuned)
    now = weights(folder / "base", tmp_path / "out") if is_adapter else weights(tmp_path / "out")
    for name, tensor in before.items():
        wanted = tensor.double() + scale * (after[name].double() - tensor.double())
        assert (now[name].double() - wanted).abs().max() <= CLOSE * wanted.abs().max(), name
    assert WrittenScale.load(tmp_path / "out").scale == scale


def test_what_is_left_out_stays_as_tuned(folder: Path, tmp_path: Path) -> None:
    kept = Selection(exclude=("*layers.0*", "*norm*"))
    write_at_scale(folder / "base", folder / "full", 0.5, tmp_path / "out", selection=kept)
    before, after, now = (weights(path) for path in (folder / "base", folder / "full", tmp_path / "out"))
    for name, tensor in now.items():
        stays = "layers.0" in name or "norm" in name
        assert torch.equal(tensor, after[name]) is stays, name
        assert stays or torch.allclose(tensor, (before[name] + after[name]) / 2, atol=CLOSE), name


def test_the_adapter_keeps_its_form(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    write_at_scale(folder / "base", folder / "adapter", 0.5, tmp_path / "out")
    sides = (folder / "adapter", tmp_path / "out")
    was, now = (load_file(path / "adapter_model.safetensors") for path in sides)
    second = ("lora_B", "lora_embedding_B")
    halved = {name: tensor * (0.5 if any(b in name for b in second) else 1) for name, tensor in was.items()}
    torch.testing.assert_close(now, halved, rtol=0, atol=0)


@pytest.mark.parametrize("form", ["adapter", "checkpoint"])
def test_tensors_that_an_adapter_stores_in_full_are_scaled_too(
    folder: Path, tmp_path: Path, form: str
) -> None:
    names = ["up_proj", "norm", "lm_head"]
    model = hot_llama(model=medium_llama(), target_modules=["q_proj"], modules_to_save=names, bias="none")
    moved(model, 0.1, 0, only=lambda name, parameter: "modules_to_save" in name)
    saved(model, tmp_path / "tuned")
    write_at_scale(folder / "base", tmp_path / "tuned", 0.3, tmp_path / "out", form=form)
    before, after = weights(folder / "base"), weights(folder / "base", tmp_path / "tuned")
    now = weights(folder / "base", tmp_path / "out") if form == "adapter" else weights(tmp_path / "out")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert all(any(part in name for name in changed) for part in names)
    for name in changed:
        wanted = before[name] + 0.3 * (after[name] - before[name])
        assert (now[name] - wanted).abs().max() <= CLOSE * wanted.abs().max(), name


def test_tensors_that_an_adapter_with_a_weight_stores_in_full_have_that_weight(
    folder: Path, tmp_path: Path
) -> None:
    model = hot_llama(model=medium_llama(), target_modules=["q_proj"], modules_to_save=["norm"])
    for name, parameter in model.named_parameters():
        if "modules_to_save" in name:
            parameter.data += 0.5
    saved(model, tmp_path / "tuned")
    write_at_scale(folder / "base", f"{tmp_path / 'tuned'}@0.5", 1.0, tmp_path / "out", form="checkpoint")
    before, now = weights(folder / "base"), weights(tmp_path / "out")
    torch.testing.assert_close(now["model.norm.weight"], before["model.norm.weight"] + 0.25)


def test_biases_of_b_are_scaled_with_it(folder: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = hot_llama(model=medium_llama(), target_modules=["q_proj"], lora_bias=True)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name and name.endswith("bias"):
            parameter.data = torch.randn(parameter.shape, generator=generator)
    saved(model, tmp_path / "tuned")
    write_at_scale(folder / "base", tmp_path / "tuned", 0.0, tmp_path / "none")
    ids = torch.tensor([[5, 20, 31, 7]])
    logits = []
    for adapter in (None, "tuned", "none"):
        opened: Any = AutoModelForCausalLM.from_pretrained(folder / "base")
        if adapter is not None:
            opened = PeftModel.from_pretrained(opened, tmp_path / adapter)
        logits.append(opened.eval()(input_ids=ids).logits)
    assert not torch.allclose(logits[0], logits[1], atol=1e-2)
    assert torch.allclose(logits[0], logits[2], atol=1e-5)


def test_retrained_tokens_of_which_no_share_can_be_written_are_refused(folder: Path, tmp_path: Path) -> None:
    model = hot_llama(model=medium_llama(), target_modules=["q_proj"], trainable_token_indices=[3, 4])
    saved(model, tmp_path / "tuned")
    with pytest.raises(SettingError, match="retrained single tokens"):
        write_at_scale(folder / "base", tmp_path / "tuned", 0.5, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    write_at_scale(folder / "base", tmp_path / "tuned", 1.0, tmp_path / "same")


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), 100, "0.5", True, None])
def test_a_scale_that_is_none_is_refused(folder: Path, tmp_path: Path, scale: Any) -> None:
    with pytest.raises(SettingError, match="expected a scale of the update"):
        write_at_scale(folder / "base", folder / "adapter", scale, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["adapter", "checkpoint", "full"])
def test_no_nan_is_written(folder: Path, tmp_path: Path, form: str) -> None:
    from safetensors.torch import load_file, save_file

    source = folder / ("full" if form == "full" else "adapter")
    shutil.copytree(source, tmp_path / "tuned")
    file = next((tmp_path / "tuned").glob("*.safetensors"))
    tensors = load_file(file)
    name = next(name for name in tensors if "q_proj" in name and ("lora_B" in name or form == "full"))
    tensors[name][0, 0] = torch.nan
    save_file(tensors, file, metadata={"format": "pt"})
    form = "auto" if form == "full" else form
    with pytest.raises(NonFiniteError, match="NaN or infinity"):
        write_at_scale(folder / "base", tmp_path / "tuned", 0.5, tmp_path / "out", form=form)
    assert not (tmp_path / "out").exists()


def halved_by_scale(folder: Path) -> None:
    write_at_scale(folder / "base", folder / "tuned", 0.5, folder / "out")


def halved_by_remedy(folder: Path) -> None:
    mitigated(folder, remedy=Interpolate(alpha=0.5), audit=AuditSettings(include_embeddings=True))


halvings = pytest.mark.parametrize("halve", [halved_by_scale, halved_by_remedy])


@halvings
def test_of_a_grown_vocabulary_the_new_rows_stay_as_tuned(halve: Callable[..., None], tmp_path: Path) -> None:
    base = tiny_llama()
    saved(base, tmp_path / "base")
    character_tokenizer().save_pretrained(tmp_path / "base")
    base.resize_token_embeddings(base.config.vocab_size + 3)
    moved(base, 0.1, 0)
    saved(base, tmp_path / "tuned")
    halve(tmp_path)
    before, after, now = (weights(tmp_path / part) for part in ("base", "tuned", "out"))
    for name, tensor in now.items():
        rows = len(before[name])
        assert torch.allclose(tensor[:rows], (before[name] + after[name][:rows]) / 2, atol=CLOSE), name
        assert torch.equal(tensor[rows:], after[name][rows:]), name


@halvings
def test_of_a_grown_vocabulary_that_an_adapter_stores_the_new_rows_stay_as_tuned(
    halve: Callable[..., None], tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file

    base: Any = tiny_llama()
    saved(base, tmp_path / "base")
    character_tokenizer().save_pretrained(tmp_path / "base")
    before = base.get_input_embeddings().weight.detach().clone()
    base.resize_token_embeddings(len(before) + 3)
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    model: Any = get_peft_model(base, config)
    moved(model, 0.1, 0, only=lambda name, parameter: "modules_to_save" in name or "lora_B" in name)
    model.save_pretrained(tmp_path / "tuned")
    halve(tmp_path)
    after, now = (load_file(tmp_path / part / "adapter_model.safetensors") for part in ("tuned", "out"))
    (name,) = [name for name in now if "embed_tokens" in name]
    assert torch.allclose(now[name][: len(before)], (before + after[name][: len(before)]) / 2, atol=CLOSE)
    assert torch.equal(now[name][len(before) :], after[name][len(before) :])


def test_matrices_that_were_not_tuned_are_not_counted(folder: Path, tmp_path: Path) -> None:
    tuned = medium_llama()
    tuned.get_parameter("model.layers.0.self_attn.q_proj.weight").data += 0.1
    saved(tuned, tmp_path / "tuned")
    assert write_at_scale(folder / "base", tmp_path / "tuned", 0.5, tmp_path / "out").matrices == 1


def test_a_head_in_a_sum_of_adapters_is_written(folder: Path, tmp_path: Path) -> None:
    """``W0 + 0.7 D1 + 0.3 D2`` by PEFT's own merge of each."""
    models = [
        hot_llama(seed, model=medium_llama(), target_modules=[*targets])
        for seed, targets in enumerate((("q_proj", "lm_head"), ("q_proj",)))
    ]
    for name, model in zip("ab", models, strict=True):
        saved(model, tmp_path / name)
    of_sum = f"{tmp_path / 'a'}@0.7+{tmp_path / 'b'}@0.3"
    write_at_scale(folder / "base", of_sum, 0.5, tmp_path / "out", form="adapter")
    before, now = weights(folder / "base"), weights(folder / "base", tmp_path / "out")
    first, second = (weights(folder / "base", tmp_path / name) for name in "ab")
    for name, tensor in now.items():
        update = 0.7 * (first[name] - before[name]) + 0.3 * (second[name] - before[name])
        wanted = before[name] + 0.5 * update
        assert (tensor - wanted).abs().max() <= CLOSE * max(1.0, float(wanted.abs().max())), name
    assert not torch.equal(now["lm_head.weight"], before["lm_head.weight"])


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"target_modules": ["q_proj", "embed_tokens"]}, "model.embed_tokens.weight"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["norm"]}, "norm.weight"),
    ],
)
def test_what_a_new_adapter_cannot_store_is_refused(
    settings: dict[str, Any], named: str, folder: Path, tmp_path: Path
) -> None:
    saved(hot_llama(model=medium_llama(), **settings), tmp_path / "tuned")
    with pytest.raises(CheckpointError, match=rf"changes '\S*{named}', which is not the weight of a linear"):
        write_at_scale(folder / "base", f"{tmp_path / 'tuned'}@0.5", 1.0, tmp_path / "out", form="adapter")


def coarse(folder: Path, steps: float, base_dtype: torch.dtype = torch.bfloat16) -> tuple[Path, Path]:
    """A base in bfloat16 numbers, and a fine-tuning that moved every weight by some units in its last place."""
    base = tiny_llama().to(torch.bfloat16)
    tuned = copy.deepcopy(base)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in tuned.named_parameters():
        if "proj" in name:
            sign = torch.randint(0, 2, parameter.shape, generator=generator) * 2 - 1
            parameter.data += (sign * parameter.data.float().abs() * 2**-8 * steps).to(torch.bfloat16)
    return saved(base.to(base_dtype), folder / "base"), saved(tuned, folder / "tuned")


def test_an_update_that_the_type_cannot_hold_is_told(tmp_path: Path) -> None:
    base, tuned = coarse(tmp_path, steps=2)
    with pytest.warns(UserWarning, match=r"bfloat16 is too coarse .* by (\d+)% of its norm; pass") as told:
        write_at_scale(base, tuned, 0.3, tmp_path / "out")
    before, after, found = (weights(tmp_path / name) for name in ("base", "tuned", "out"))
    lost, update = 0.0, 0.0
    for name in before:
        wanted = 0.3 * (after[name].double() - before[name].double())
        update += float(wanted.square().sum())
        lost += float((found[name].double() - before[name].double() - wanted).square().sum())
    assert f" {(lost / update) ** 0.5:.0%} " in str(told[0].message)
    assert (lost / update) ** 0.5 > 0.3


@pytest.mark.parametrize(
    ("steps", "scale", "dtype"),
    [(100, 0.3, torch.bfloat16), (2, 1.0, torch.bfloat16), (2, 0.0, torch.bfloat16), (2, 0.3, torch.float32)],
    ids=["a large update", "as trained", "the base", "written in single precision"],
)
def test_an_update_that_the_type_holds_is_written_without_a_word(
    tmp_path: Path, steps: float, scale: float, dtype: torch.dtype, recwarn: pytest.WarningsRecorder
) -> None:
    base, tuned = coarse(tmp_path, steps, dtype)
    write_at_scale(base, tuned, scale, tmp_path / "out")
    assert not [warning for warning in recwarn if "coarse" in str(warning.message)]
