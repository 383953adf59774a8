"""Files as other programs lay them out: each is refused in one line that names the format and what helps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from intruders.checkpoints.opening.open import open_checkpoint, open_source
from intruders.checkpoints.pairing.open_sides import open_sides
from intruders.checkpoints.pairing.pair_sides import pair_sides
from intruders.errors import CheckpointError, PairingError
from intruders.models.base_model import base_model_location
from tests.tiny import save_llama


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
    with pytest.raises(CheckpointError, match=rf"two' is {helps}"):
        open_checkpoint(two)
    for given in (one, one / "consolidated.00.pth"):
        with pytest.raises(CheckpointError, match=rf"^base '{given}' is {helps}"):
            base_model_location(str(given))
    llama = save_llama(tmp_path / "llama")
    with pytest.raises(PairingError, match=rf"different architectures: .*; '{one}' is {helps}"):
        pair_sides(*open_sides(llama, one))
    # Two of them are of one format, and can be compared.
    assert len(pair_sides(*open_sides(one, a_meta_model(tmp_path / "tuned", 1))).pairs) == 8
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
    with pytest.raises(CheckpointError, match=r"is quantized with MLX.*mlx_lm\.convert --dequantize"):
        base_model_location(str(llama))


@pytest.mark.parametrize("make", [kohya, diffusers])
def test_an_adapter_of_an_image_model(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    file = make(tmp_path / "pytorch_lora_weights.safetensors")
    llama = save_llama(tmp_path / "llama")
    helps = (
        r"has the names of an image model \(kohya or diffusers\), .*; an adapter .* such as the folder 'unet'"
    )
    with pytest.raises(
        PairingError, match=rf"^the adapter '{file}' {helps}; '{llama}' lacks 1 of the 1 weights"
    ):
        pair_sides(*open_sides(llama, file))
    for given in (file, file.parent):
        with pytest.raises(CheckpointError, match=f"^base '{given}' {helps}$"):
            base_model_location(str(given))


def test_a_pipeline_of_diffusers(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    for part in ("vae", "transformer"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text("{}")
    for read in (open_source, base_model_location):
        with pytest.raises(
            CheckpointError, match=r"is a diffusers pipeline .*, such as 'transformer' in it$"
        ):
            read(str(tmp_path))
