"""The complete update at one scale: PEFT's own merge of what was written, and tensors scaled by hand."""

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from intruders.checkpoints.stored.selection import Selection
from intruders.errors import CheckpointError, NonFiniteError, SettingError
from intruders.mitigation.write_at_scale import WrittenScale, write_at_scale
from tests.checkpoints.models import moved, saved, tiny_llama, with_lora
from tests.checkpoints.renamed_families import FAMILIES
from tests.mitigation.hot import assert_share, hot_llama, medium_llama, renamed_in, weights_of
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
    saved(moved(base, 0.1, 0), folder / "full")
    return folder


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
    before = weights_of(folder / "base")
    after = weights_of(folder / "base", folder / tuned) if tuned == "adapter" else weights_of(folder / tuned)
    now = weights_of(folder / "base", tmp_path / "out") if is_adapter else weights_of(tmp_path / "out")
    assert_share(now, before, after, scale, rtol=CLOSE, atol=CLOSE)
    assert WrittenScale.load(tmp_path / "out").scale == scale


def test_what_is_left_out_stays_as_tuned(folder: Path, tmp_path: Path) -> None:
    kept = Selection(exclude=("*layers.0*", "*norm*"))
    write_at_scale(folder / "base", folder / "full", 0.5, tmp_path / "out", selection=kept)
    before, after, now = (weights_of(path) for path in (folder / "base", folder / "full", tmp_path / "out"))
    for name, tensor in now.items():
        stays = "layers.0" in name or "norm" in name
        assert torch.equal(tensor, after[name]) is stays, name
        assert stays or torch.allclose(tensor, (before[name] + after[name]) / 2, atol=CLOSE), name


@pytest.mark.parametrize(("form", "weight"), [("adapter", ""), ("checkpoint", ""), ("checkpoint", "@0.5")])
def test_tensors_in_full_are_scaled_too(folder: Path, tmp_path: Path, form: str, weight: str) -> None:
    names = ["up_proj", "norm", "lm_head"]
    model = hot_llama(model=medium_llama(), target_modules=["q_proj"], modules_to_save=names, bias="none")
    moved(model, 0.1, 0, only=lambda name, parameter: "modules_to_save" in name)
    saved(model, tmp_path / "tuned")
    write_at_scale(folder / "base", f"{tmp_path / 'tuned'}{weight}", 0.3, tmp_path / "out", form=form)
    before, after = weights_of(folder / "base"), weights_of(folder / "base", tmp_path / "tuned")
    now = weights_of(folder / "base", tmp_path / "out") if form == "adapter" else weights_of(tmp_path / "out")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert all(any(part in name for name in changed) for part in names)
    assert_share(now, before, after, 0.15 if weight else 0.3, rtol=CLOSE, atol=CLOSE)


def test_biases_of_b_are_scaled_with_it(folder: Path, tmp_path: Path) -> None:
    model = hot_llama(model=medium_llama(), target_modules=["q_proj"], lora_bias=True)
    moved(model, 1.0, 0, only=lambda name, parameter: "lora_B" in name and name.endswith("bias"))
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


@pytest.mark.parametrize(
    ("tuned", "form"), [("adapter", "adapter"), ("adapter", "checkpoint"), ("full", "auto")]
)
def test_no_nan_is_written(folder: Path, tmp_path: Path, tuned: str, form: str) -> None:
    shutil.copytree(folder / tuned, tmp_path / "tuned")
    file = next((tmp_path / "tuned").glob("*.safetensors"))
    tensors = load_file(file)
    name = next(name for name in tensors if "q_proj" in name and ("lora_B" in name or tuned == "full"))
    tensors[name][0, 0] = torch.nan
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(NonFiniteError, match="NaN or infinity"):
        write_at_scale(folder / "base", tmp_path / "tuned", 0.5, tmp_path / "out", form=form)
    assert not (tmp_path / "out").exists()


def grown(folder: Path) -> Any:
    """A base with three more tokens, of what is saved in a folder."""
    base: Any = tiny_llama()
    saved(base, folder / "base")
    character_tokenizer().save_pretrained(folder / "base")
    base.resize_token_embeddings(base.config.vocab_size + 3)
    return base


def test_of_a_grown_vocabulary_the_new_rows_stay_as_tuned(tmp_path: Path) -> None:
    saved(moved(grown(tmp_path), 0.1, 0), tmp_path / "tuned")
    write_at_scale(tmp_path / "base", tmp_path / "tuned", 0.5, tmp_path / "out")
    before, after, now = (weights_of(tmp_path / part) for part in ("base", "tuned", "out"))
    for name, tensor in now.items():
        rows = len(before[name])
        assert torch.allclose(tensor[:rows], (before[name] + after[name][:rows]) / 2, atol=CLOSE), name
        assert torch.equal(tensor[rows:], after[name][rows:]), name


def test_of_a_grown_vocabulary_that_an_adapter_stores_the_new_rows_stay_as_tuned(tmp_path: Path) -> None:
    saved(with_lora(grown(tmp_path), modules_to_save=["embed_tokens"]), tmp_path / "tuned")
    write_at_scale(tmp_path / "base", tmp_path / "tuned", 0.5, tmp_path / "out")
    before = weights_of(tmp_path / "base")["model.embed_tokens.weight"]
    after, now = (load_file(tmp_path / part / "adapter_model.safetensors") for part in ("tuned", "out"))
    (name,) = [name for name in now if "embed_tokens" in name]
    assert torch.allclose(now[name][: len(before)], (before + after[name][: len(before)]) / 2, atol=CLOSE)
    assert torch.equal(now[name][len(before) :], after[name][len(before) :])


def test_matrices_that_were_not_tuned_are_not_counted(folder: Path, tmp_path: Path) -> None:
    tuned = medium_llama()
    tuned.get_parameter("model.layers.0.self_attn.q_proj.weight").data += 0.1
    saved(tuned, tmp_path / "tuned")
    assert write_at_scale(folder / "base", tmp_path / "tuned", 0.5, tmp_path / "out").matrices == 1


def test_what_a_new_adapter_cannot_store_is_refused(folder: Path, tmp_path: Path) -> None:
    said = r"changes 'model\.embed_tokens\.weight', which is not the weight of a linear"
    with pytest.raises(CheckpointError, match=said):
        write_at_scale(folder / "base", f"{folder / 'adapter'}@0.5", 1.0, tmp_path / "out", form="adapter")


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
    before, after, found = (
        torch.cat([tensor.double().flatten() for tensor in weights_of(tmp_path / name).values()])
        for name in ("base", "tuned", "out")
    )
    wanted = 0.3 * (after - before)
    lost = float((found - before - wanted).norm() / wanted.norm())
    assert f" {lost:.0%} " in str(told[0].message)
    assert lost > 0.3


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


def in_an_old_file(name: str) -> str:
    """The names that bert-base-uncased has on the hub."""
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


def bert_and_tuned(folder: Path) -> list[dict[str, Tensor]]:
    """The tensors of both, saved in a folder."""
    torch.manual_seed(0)
    model = FAMILIES["bert"]()
    model.save_pretrained(folder / "base")
    moved(model, 0.1, 1).save_pretrained(folder / "tuned")
    return [load_file(folder / side / "model.safetensors") for side in ("base", "tuned")]


@pytest.mark.parametrize("scale", [0.0, 0.5])
@pytest.mark.parametrize("old", ["base", "tuned"])
def test_norms_named_gamma_and_beta_keep_their_share(old: str, scale: float, tmp_path: Path) -> None:
    before, after = bert_and_tuned(tmp_path)
    renamed_in(tmp_path / old, in_an_old_file)
    write_at_scale(tmp_path / "base", tmp_path / "tuned", scale, tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    found = {name: written[in_an_old_file(name) if old == "tuned" else name] for name in before}
    assert_share(found, before, after, scale)


def test_tensors_under_a_name_that_is_not_known_are_told(tmp_path: Path) -> None:
    bert_and_tuned(tmp_path)
    renamed_in(tmp_path / "tuned", lambda name: name.replace("LayerNorm.bias", "LayerNorm.shift"))
    with pytest.warns(UserWarning, match="no tensor under a known name for .*LayerNorm.bias"):
        write_at_scale(tmp_path / "base", tmp_path / "tuned", 0.5, tmp_path / "out")


@pytest.mark.parametrize("scale", [0.0, 0.5])
def test_the_head_that_whisper_ties_keeps_its_share(scale: float, tmp_path: Path) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    torch.manual_seed(0)
    model = FAMILIES["whisper"]()
    model.save_pretrained(base)
    saved(with_lora(model, modules_to_save=["proj_out"]), adapter)
    write_at_scale(base, adapter, scale, tmp_path / "out")
    before = load_file(base / "model.safetensors")["model.decoder.embed_tokens.weight"]
    own = "base_model.model.proj_out.weight"
    tuned, written = (load_file(path / "adapter_model.safetensors") for path in (adapter, tmp_path / "out"))
    assert_share(written, {own: before}, tuned, scale)
