"""Written checkpoints against safetensors' and transformers' own readers, and rewritten adapters as PEFT loads them."""

import json
import warnings
import weakref
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from intruders.checkpoints.opening.open import open_checkpoint
from intruders.checkpoints.stored.checkpoint import Checkpoint, StoredTensor, tensor_in_memory
from intruders.checkpoints.writing.companions import companions, copy_files, write_companions
from intruders.checkpoints.writing.lora_adapter import plain_lora, rewritten
from intruders.checkpoints.writing.shards import require_finite, write_checkpoint, write_safetensors
from intruders.errors import NonFiniteError
from intruders.linalg.low_rank import LowRank
from tests.checkpoints.models import merged_weights, refused, saved, tiny_llama, with_lora


def in_memory(tensors: Mapping[str, Tensor]) -> dict[str, StoredTensor]:
    return {name: tensor_in_memory(tensor) for name, tensor in tensors.items()}


def test_every_dtype_and_shape_reads_back(tmp_path: Path) -> None:
    types = ["float64", "float32", "float16", "bfloat16", "int64"]
    types += ["uint8", "bool", "uint16", "uint32", "uint64"]
    tensors = {
        f"{dtype}-{len(shape)}": torch.arange(prod(shape)).reshape(shape).to(getattr(torch, dtype))
        for dtype in types
        for shape in ((), (0,), (3,), (2, 3), (2, 0, 3), (2, 3, 4))
    }
    tensors["turned"] = torch.arange(6.0).reshape(2, 3).mT
    write_safetensors(tmp_path / "a.safetensors", in_memory(tensors))
    found = load_file(tmp_path / "a.safetensors")
    assert found.keys() == tensors.keys()
    assert all(
        found[name].dtype == value.dtype and torch.equal(found[name], value)
        for name, value in tensors.items()
    )


@pytest.mark.parametrize("shard_bytes", [10**9, 6000, 1])
def test_shards_load_in_transformers(tmp_path: Path, shard_bytes: int) -> None:
    from transformers import AutoModelForCausalLM

    model = tiny_llama()
    model.config.save_pretrained(tmp_path)  # type: ignore[union-attr, operator]
    state = model.state_dict()
    counts: list[tuple[int, int]] = []
    write_checkpoint(
        tmp_path,
        in_memory(state),
        shard_bytes=shard_bytes,
        progress=lambda done, total: counts.append((done, total)),
    )
    assert counts == [(i + 1, len(state)) for i in range(len(state))]
    files = list(tmp_path.glob("*.safetensors"))
    assert len(files) == {10**9: 1, 1: len(state)}.get(shard_bytes, len(files))
    if shard_bytes == 6000:
        assert 1 < len(files) < len(state)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


def test_dtype_is_the_planned_one_and_tensors_are_let_go(tmp_path: Path) -> None:
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = 0

    def read() -> Tensor:
        nonlocal most
        tensor = torch.full((4, 4), 1 / 3, dtype=torch.float64)
        alive.add(tensor)
        most = max(most, len(alive))
        return tensor

    tensors = dict.fromkeys("abcdefgh", StoredTensor((4, 4), torch.bfloat16, "BF16", read))
    write_safetensors(tmp_path / "a.safetensors", tensors)
    assert most <= 2  # the one being written, and the one read after it
    assert torch.equal(load_file(tmp_path / "a.safetensors")["h"], torch.full((4, 4), 1 / 3).bfloat16())


def test_a_dtype_that_is_not_written_is_named(tmp_path: Path) -> None:
    wrong = in_memory({"a": torch.zeros(2, dtype=torch.complex128)})
    with refused(r"'a' has the dtype torch\.complex128, .*F64, .*; convert"):
        write_safetensors(tmp_path / "a.safetensors", wrong)


def test_a_tensor_of_another_shape_than_planned_is_an_error(tmp_path: Path) -> None:
    planned = tensor_in_memory(torch.zeros(3))
    with refused("planned as"):
        write_safetensors(tmp_path / "a.safetensors", {"a": replace(planned, shape=(2,))})


def two_folders(place: Path) -> tuple[Path, Path]:
    for name in ("source", "folder"):
        (place / name).mkdir()
    return place / "source", place / "folder"


def test_companions_are_configs_and_tokenizers_and_no_weights(tmp_path: Path) -> None:
    source, folder = two_folders(tmp_path)
    wanted = [
        "config.json",
        "generation_config.json",
        "merges.txt",
        "special_tokens_map.json",
        "tokenizer.model",
    ]
    others = ["model.safetensors", "model.safetensors.index.json", "adapter_config.json", "pytorch_model.bin"]
    # Of records, a copy would speak for a model that it is not of.
    records = ["heal.json", "intruders.json", "remedies.json", "run.json", "training.json", "written.json"]
    for name in [*wanted, *others, *records, ".hidden.json"]:
        (source / name).write_text(name)
    (source / "folder.json").mkdir()
    assert copy_files(companions(source), folder) == wanted
    assert sorted(path.name for path in folder.iterdir()) == wanted


def test_a_config_says_that_what_is_written_is_not_quantized(tmp_path: Path) -> None:
    """Also where the language model's part of it said so; transformers would look for the packed weights again."""
    source, folder = two_folders(tmp_path)
    quantized = {"quantization_config": {"quant_method": "gptq"}}
    config = {"dtype": "float16", **quantized, "text_config": {"hidden_size": 8, **quantized}}
    (source / "config.json").write_text(json.dumps(config))
    whole = Checkpoint("model", "checkpoint", "safetensors", {})
    write_companions(whole, source, folder, torch.bfloat16)
    written = json.loads((folder / "config.json").read_text())
    assert written == {"dtype": "bfloat16", "text_config": {"hidden_size": 8}}


TYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_every_type_is_asked(dtype: torch.dtype) -> None:
    largest = torch.tensor([1.0, -torch.finfo(dtype).max]).to(dtype)
    assert require_finite(largest, "up.weight") is largest
    none = torch.tensor([1.0, float("nan")]).to(dtype)
    name = str(dtype).removeprefix("torch.")
    with refused(rf"^'up.weight' contains NaN or infinity .* written in {name}, whose", NonFiniteError):
        require_finite(none, "up.weight")


@pytest.mark.parametrize("start", ["orthogonal", "mica", "eva", "gaussian", False, True])
def test_peft_loads_a_module_of_an_odd_rank(tmp_path: Path, start: str | bool) -> None:
    model = with_lora(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=start)
    adapter = plain_lora(saved(model, tmp_path / "given"), "given", open_checkpoint(tiny_llama()))
    assert adapter is not None
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(shape, generator=generator) for shape in ((16, 5), (5, 16)))
    changed = "model.layers.1.self_attn.q_proj"
    new = rewritten(adapter, {changed: lambda update: LowRank(left, right)})
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "adapter_config.json").write_text(json.dumps(new.config))
    save_file(new.tensors, tmp_path / "new" / "adapter_model.safetensors")

    wanted = merged_weights(model)
    base = tiny_llama()
    wanted[f"{changed}.weight"] = base.state_dict()[f"{changed}.weight"] + left @ right
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # such as one of missing tensors
        loaded = PeftModel.from_pretrained(base, str(tmp_path / "new"))
    for name, tensor in merged_weights(loaded).items():
        torch.testing.assert_close(tensor, wanted[name], atol=1e-5, rtol=1e-4, msg=name)
