"""Adapters of MLX and llama.cpp against PEFT's merge of the same factors, and against the formulas of their code."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from intruders.checkpoints.opening.many_sources import digest_of
from intruders.checkpoints.opening.open import open_source
from intruders.checkpoints.pairing.inspect import inspect
from intruders.checkpoints.stored.selection import Selection
from tests.checkpoints.models import assert_tuned, differing, loaded, paired, refused, tiny_llama
from tests.checkpoints.other_programs import peft_lora, save_as_gguf, save_as_mlx

ALL = ["q_proj", "k_proj", "down_proj"]


@pytest.mark.parametrize("is_dora", [False, True])
def test_an_adapter_is_what_peft_merges(is_dora: bool, tmp_path: Path) -> None:
    merged = peft_lora(tmp_path, tiny_llama(), target_modules=ALL, use_dora=is_dora)
    mlx = save_as_mlx(tmp_path)
    for given in (mlx, mlx / "adapters.safetensors"):
        assert_tuned(differing(tmp_path / "base", given), merged, count=6, atol=1e-6, rtol=1e-6)
    [entry] = inspect(mlx)
    assert (entry.format, entry.base_source) == ("MLX LORA", str(tmp_path / "base"))
    assert {(row.method, row.rank, row.scale) for row in entry.rows} == {
        ("dora" if is_dora else "lora", 4, 1.5)
    }
    before = digest_of(str(mlx))
    tensors = load_file(mlx / "adapters.safetensors")
    save_file({name: 2 * tensor for name, tensor in tensors.items()}, mlx / "adapters.safetensors")
    assert digest_of(str(mlx)) != before


def test_experts_are_modules_of_their_own(tmp_path: Path) -> None:
    """LoRASwitchLinear.fuse: weight[e] + scale * lora_b[e] @ lora_a[e], with lora_a (experts, r, in)."""
    torch.manual_seed(0)
    names = [f"model.layers.0.mlp.experts.{expert}.up_proj.weight" for expert in range(3)]
    base = {name: torch.randn(12, 16) for name in names}
    down, up = torch.randn(3, 2, 16), torch.randn(3, 12, 2)
    module = "model.layers.0.mlp.switch_mlp.up_proj"
    (tmp_path / "mlx").mkdir()
    save_file({f"{module}.lora_a": down, f"{module}.lora_b": up}, tmp_path / "mlx" / "adapters.safetensors")
    settings = {"fine_tune_type": "lora", "lora_parameters": {"rank": 2, "scale": 3.0}}
    (tmp_path / "mlx" / "adapter_config.json").write_text(json.dumps(settings))
    wanted = {name: base[name] + 3 * up[expert] @ down[expert] for expert, name in enumerate(names)}
    found = differing(base, tmp_path / "mlx")
    assert list(found) == names
    assert_tuned(found, wanted, atol=1e-5, rtol=1e-5)


def test_layers_that_were_trained_in_full_are_what_the_file_has(tmp_path: Path) -> None:
    peft_lora(tmp_path, tiny_llama(), target_modules=ALL)
    mlx = save_as_mlx(tmp_path, fine_tune_type="full", lora_parameters=None)
    name = "model.layers.1.self_attn.q_proj.weight"
    whole = {name: torch.randn(16, 16), "model.layers.1.input_layernorm.weight": torch.ones(16)}
    save_file(whole, mlx / "adapters.safetensors")
    found = differing(tmp_path / "base", mlx)
    assert list(found) == [name]
    assert_tuned(found, whole, atol=0, rtol=0)
    assert inspect(mlx)[0].format == "MLX FULL"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lora_parameters": {"scale": 2.0, "alpha": 16}}, r"has alpha = '16' beside scale, .*; write the"),
        ({"lora_parameters": {"rank": 4}}, r"has scale = 'None'; expected a number"),
        ({"lora_parameters": None}, r"fine_tune_type = 'lora' of MLX; expected .*mlx_lm\.fuse"),
        ({"fine_tune_type": "other"}, r"fine_tune_type = 'other' of MLX; expected .*mlx_lm\.fuse"),
    ],
)
def test_a_config_without_one_meaning_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    peft_lora(tmp_path, tiny_llama(), target_modules=["q_proj"])
    with refused(rf"^[^\n]*{said}[^\n]*$"):
        open_source(save_as_mlx(tmp_path, **changes))


def test_files_that_are_incomplete_are_refused(tmp_path: Path) -> None:
    peft_lora(tmp_path, tiny_llama(), target_modules=["q_proj"])
    mlx = save_as_mlx(tmp_path)
    tensors = load_file(mlx / "adapters.safetensors")
    embedding = {
        "model.embed_tokens.lora_a": torch.ones(40, 4),
        "model.embed_tokens.lora_b": torch.ones(4, 16),
    }
    save_file(embedding, mlx / "adapters.safetensors")
    with refused(r"'model\.embed_tokens\.lora_a', which is not a factor of a linear"):
        open_source(mlx)
    del tensors["model.layers.0.self_attn.q_proj.lora_b"]
    save_file(tensors, mlx / "adapters.safetensors")
    with refused(r"has only lora_A for 'model\.layers\.0\.self_attn\.q_proj'"):
        open_source(mlx)
    (mlx / "adapter_config.json").rename(tmp_path / "elsewhere")
    with refused(r"whose scale is not in the file; expected a folder with"):
        open_source(mlx / "adapters.safetensors")
    (tmp_path / "elsewhere").rename(mlx / "adapter_config.json")
    (mlx / "adapters.safetensors").unlink()
    with refused(r"of MLX without weights; expected adapters\.safetensors"):
        open_source(mlx)


TARGETS = ["q_proj", "k_proj", "v_proj", "down_proj", "embed_tokens"]


def test_an_adapter_of_llama_cpp_is_what_peft_merges(tmp_path: Path) -> None:
    """With ranks of their own; q and k in the order of their heads; an embedding."""
    merged = peft_lora(tmp_path, tiny_llama(), target_modules=TARGETS, rank_pattern={"q_proj": 2})
    file = save_as_gguf(tmp_path)
    pairing = paired(tmp_path / "base", file, Selection(include_embeddings=True))
    assert_tuned(loaded(pairing), merged, count=9, atol=1e-6, rtol=1e-6)
    norm = next(skipped for skipped in pairing.skipped if skipped.name == "blk.0.attn_norm.weight")
    assert norm.reason == "a norm, which llama.cpp leaves out"
    [entry] = inspect(file)
    assert (entry.format, entry.base_source) == ("GGUF LORA", "org/base")
    assert {(row.rank, row.scale) for row in entry.rows} == {(4, 1.5), (2, 3.0)}
    # A folder with the file alone, as on the hub.
    (tmp_path / "alone").mkdir()
    shutil.copy(file, tmp_path / "alone")
    assert inspect(tmp_path / "alone")[0].rows == entry.rows


def test_an_alpha_of_zero_is_a_scale_of_one(tmp_path: Path) -> None:
    """llama_adapter_lora_weight::get_scale of llama-adapter.h: alpha ? adapter_scale * alpha / rank : adapter_scale."""
    peft_lora(tmp_path, tiny_llama(), target_modules=["q_proj"])
    assert {row.scale for row in inspect(save_as_gguf(tmp_path, alpha=0.0))[0].rows} == {1.0}


def test_what_has_no_known_place_is_refused(tmp_path: Path) -> None:
    peft_lora(tmp_path, tiny_llama(), target_modules=["o_proj", "q_proj"])
    with refused(r"'blk\.0\.attn_q\.weight'.* of the architecture 'falcon'; .*; pass the PEFT adapter"):
        inspect(save_as_gguf(tmp_path, "falcon"))
    file = save_as_gguf(tmp_path)
    with refused(r"its base has no config with num_attention_heads; pass the base"):
        differing(tiny_llama().state_dict(), file)
    # A table of rotary frequencies, which is no matrix of a model.
    file.write_bytes(file.read_bytes().replace(b"blk.0.attn_output.weight", b"rope_factors_long.weight"))
    with refused(r"with 'rope_factors_long\.weight' of the architecture 'llama'; expected"):
        inspect(file)
