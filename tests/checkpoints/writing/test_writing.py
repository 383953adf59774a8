"""Written checkpoints against safetensors' and transformers' own readers; folders against kills."""

from __future__ import annotations

import json
import os
import signal
import time
import weakref
from itertools import count
from pathlib import Path

import pytest
import torch
from torch import Tensor

from intruders.checkpoints.writing.companions import copy_companions, write_companions
from intruders.checkpoints.writing.shards import PlannedTensor, write_checkpoint, write_safetensors
from intruders.errors import CheckpointError
from intruders.system.folders import atomic_folder, check_target
from tests.checkpoints.models import tiny_llama


def planned(name: str, tensor: Tensor, dtype: torch.dtype | None = None) -> PlannedTensor:
    return PlannedTensor(name, tuple(tensor.shape), dtype or tensor.dtype, lambda: tensor)


def test_every_dtype_and_shape_reads_back(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"{dtype}-{len(shape)}": torch.randn(shape, generator=generator).mul(10).to(dtype)
        for dtype in (
            torch.float64,
            torch.float32,
            torch.float16,
            torch.bfloat16,
            torch.int64,
            torch.uint8,
            torch.bool,
        )
        for shape in ((), (0,), (3,), (2, 3), (2, 0, 3), (2, 3, 4))
    }
    tensors["turned"] = torch.arange(6.0).reshape(2, 3).mT
    write_safetensors(tmp_path / "a.safetensors", [planned(name, value) for name, value in tensors.items()])
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
        [planned(name, value) for name, value in state.items()],
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
    from safetensors.torch import load_file

    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = 0

    def read() -> Tensor:
        nonlocal most
        tensor = torch.full((4, 4), 1 / 3, dtype=torch.float64)
        alive.add(tensor)
        most = max(most, len(alive))
        return tensor

    tensors = [PlannedTensor(name, (4, 4), torch.bfloat16, read) for name in "abcdefgh"]
    write_safetensors(tmp_path / "a.safetensors", tensors)
    assert most <= 2  # the one being written, and the one read after it
    assert torch.equal(load_file(tmp_path / "a.safetensors")["h"], torch.full((4, 4), 1 / 3).bfloat16())


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64])
def test_words_read_back(tmp_path: Path, dtype: torch.dtype) -> None:
    words = torch.tensor([[1, 2**15 + 1]], dtype=torch.int64).to(dtype)
    write_safetensors(tmp_path / "a.safetensors", [planned("a", words)])
    from safetensors.torch import load_file

    found = load_file(tmp_path / "a.safetensors")["a"]
    assert found.dtype == dtype
    assert found.tolist() == [[1, 2**15 + 1]]


def test_a_dtype_that_is_not_written_is_named(tmp_path: Path) -> None:
    wrong = planned("a", torch.zeros(2, dtype=torch.complex128))
    with pytest.raises(CheckpointError, match=r"'a' has the dtype torch\.complex128, .*F64, .*; convert"):
        write_safetensors(tmp_path / "a.safetensors", [wrong])


def test_a_tensor_of_another_shape_than_planned_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="planned as"):
        write_safetensors(
            tmp_path / "a.safetensors", [PlannedTensor("a", (2,), torch.float32, lambda: torch.zeros(3))]
        )


def test_companions_are_configs_and_tokenizers_and_no_weights(tmp_path: Path) -> None:
    source, folder = tmp_path / "source", tmp_path / "folder"
    source.mkdir()
    folder.mkdir()
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
    assert copy_companions(source, folder) == wanted
    assert sorted(path.name for path in folder.iterdir()) == wanted


def test_a_config_says_that_what_is_written_is_not_quantized(tmp_path: Path) -> None:
    """Also where the language model's part of it said so; transformers would look for the packed weights again."""
    source, folder = tmp_path / "source", tmp_path / "folder"
    source.mkdir()
    folder.mkdir()
    quantized = {"quantization_config": {"quant_method": "gptq"}}
    config = {"dtype": "float16", **quantized, "text_config": {"hidden_size": 8, **quantized}}
    (source / "config.json").write_text(json.dumps(config))
    write_companions(source, folder, torch.bfloat16, is_gguf=False)
    written = json.loads((folder / "config.json").read_text())
    assert written == {"dtype": "bfloat16", "text_config": {"hidden_size": 8}}


def write_half(target: Path, interruption: type[BaseException]) -> None:
    with atomic_folder(target) as folder:
        (folder / "config.json").write_text("half")
        raise interruption


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "out"
    for interruption in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(interruption):
            write_half(target, interruption)
        assert list(tmp_path.iterdir()) == []
    with atomic_folder(target) as folder:
        assert not target.exists()
        (folder / "config.json").write_text("one")
        (folder / "more").mkdir()
        (folder / "more" / "file").write_text("deep")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (target / "more" / "file").read_text() == "deep"


def test_a_folder_is_replaced_only_by_force_and_only_if_it_is_a_model(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    with atomic_folder(target) as folder:  # empty: nothing is lost
        (folder / "config.json").write_text("one")
    with pytest.raises(CheckpointError, match="already exists; choose another folder, or pass --force"):
        check_target(target)
    with atomic_folder(target, force=True) as folder:
        (folder / "config.json").write_text("two")
        assert (target / "config.json").read_text() == "one"
    assert (target / "config.json").read_text() == "two"
    assert (target / "config.json").read_text() == "two"
    home = tmp_path / "home"
    home.mkdir()
    (home / "letter.txt").write_text("dear")
    with pytest.raises(CheckpointError, match="contains no model or adapter"):
        check_target(home, force=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="is not a folder"):
        check_target(tmp_path / "file", force=True)
    with pytest.raises(CheckpointError, match="does not exist; make it first"):
        check_target(tmp_path / "a" / "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "home", "out"]


def test_a_symbolic_link_keeps_pointing_where_it_did(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "config.json").write_text("one")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with atomic_folder(tmp_path / "link", force=True) as folder:
        (folder / "config.json").write_text("two")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "config.json").read_text() == "two"


def test_a_folder_in_work_is_left_alone_and_one_left_behind_is_removed(tmp_path: Path) -> None:
    left_behind = tmp_path / ".out.0123456789ab.part"
    left_behind.mkdir()
    (left_behind / "model.safetensors").write_text("half")
    with atomic_folder(tmp_path / "another"):
        assert left_behind.is_dir()
    with atomic_folder(tmp_path / "out") as first:
        assert not left_behind.exists()
        with atomic_folder(tmp_path / "out"):
            assert first.is_dir()


def write_while_another_does(target: Path) -> None:
    with atomic_folder(target):
        target.mkdir()
        (target / "config.json").write_text("theirs")


def test_a_folder_that_another_process_made_meanwhile_is_kept(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="by another process meanwhile"):
        write_while_another_does(tmp_path / "out")
    assert (tmp_path / "out" / "config.json").read_text() == "theirs"


def replace_for_ever(target: Path) -> None:
    for number in count():
        name = f"{os.getpid()}-{number} "
        with atomic_folder(target, force=True) as folder:
            for part in range(8):
                (folder / f"{part}.txt").write_text(name * 20000)
            (folder / "config.json").write_text(name)


def test_kill_at_any_moment_leaves_the_old_state_or_the_new(tmp_path: Path) -> None:
    """kill -9 in a loop, 25 times, on a process that replaces a folder over and over."""
    target = tmp_path / "out"
    seen = set()
    for attempt in range(25):
        child = os.fork()
        if child == 0:
            try:
                replace_for_ever(target)
            finally:
                os._exit(1)
        time.sleep(0.012 * attempt)
        os.kill(child, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
        if target.exists():
            name = (target / "config.json").read_text()
            seen.add(name)
            parts = [(target / f"{part}.txt").read_text() for part in range(8)]
            assert all(part == name * 20000 for part in parts)
    assert len(seen) > 1
    with atomic_folder(target, force=True) as folder:
        (folder / "config.json").write_text("last")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
