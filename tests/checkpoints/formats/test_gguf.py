"""The GGUF reader against transformers' own loading of the same file, and against files that lie or are split."""

import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from intruders.checkpoints.formats.gguf import NOT_LOADED, known_names
from intruders.checkpoints.formats.gguf_layout import read_gguf_layout
from intruders.checkpoints.opening.open import open_checkpoint
from intruders.checkpoints.pairing.pair_sides import pair_sides
from intruders.checkpoints.stored.locate import DEMO_MODELS
from intruders.checkpoints.writing.companions import write_companions
from intruders.checkpoints.writing.merged import planned_checkpoint
from intruders.models.base_model import base_model_location
from tests.checkpoints.gguf_files import FAMILIES, finished, write_gguf, write_llama_gguf
from tests.checkpoints.models import refused, tiny_llama

# Every quantization that the gguf package can turn back into numbers.
QUANTIZATIONS = ["F16", *sorted(kind.name for kind in gguf.quants._type_traits)]


def loaded_by_transformers(path: Path) -> dict[str, torch.Tensor]:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    return dict(model.state_dict())


@pytest.mark.models
def test_smollm2_is_what_transformers_loads() -> None:
    path = DEMO_MODELS["smollm2-135m"].packaged()
    # transformers wrote the de-quantized copy of what it had loaded from the file; the tied head is not in it.
    checkpoint, truth = (
        open_checkpoint(path),
        load_file(f"{base_model_location('smollm2-135m')}/model.safetensors"),
    )
    assert set(truth) == set(checkpoint.names())
    assert all(torch.equal(checkpoint.read(name), truth[name]) for name in checkpoint.names())


@pytest.mark.parametrize("family", FAMILIES)
def test_family_is_what_transformers_loads(tmp_path: Path, family: str) -> None:
    tied = "gemma" in family
    path = write_gguf(tmp_path / "x.gguf", family, tied=tied)
    checkpoint, truth = open_checkpoint(path), loaded_by_transformers(path)
    # Before 5.0, transformers makes a matrix of each expert, and no name of a file's fused ones is that of a matrix.
    split = {name for name in truth if re.search(r"\.experts\.\d+\.", name)}
    assert set(truth) - set(checkpoint.names()) == ({"lm_head.weight"} if tied else split)
    fused = {tensor.name for tensor in read_gguf_layout(path).tensors if "_exps" in tensor.name}
    assert {name for name, _ in checkpoint.ignored} == (fused if split else set())
    for name in checkpoint.names():
        assert checkpoint.shape(name) == tuple(truth[name].shape), name
        assert torch.equal(checkpoint.read(name), truth[name]), name
    # Names are in the order of the same model in safetensors, so that an audit prints the same whichever is read: a
    # demo model is converted when it is first trained.
    tensors = {name: checkpoint.read(name).contiguous() for name in reversed(list(checkpoint.names()))}
    save_file(tensors, tmp_path / "x.safetensors")
    assert list(checkpoint.names()) == list(open_checkpoint(tmp_path / "x.safetensors").names())


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma2", "gemma3", "phi3"])
def test_no_model_is_built_for_the_names_of_known_families(tmp_path: Path, family: str) -> None:
    names = [tensor.name for tensor in read_gguf_layout(write_gguf(tmp_path / "x.gguf", family)).tensors]
    assert known_names(family, names).keys() == set(names) - NOT_LOADED
    # A name that the tables lack is looked for in the model that transformers builds.
    assert not known_names(family, ["blk.0.attn_sinks.weight"])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tokens", [64, 2000])
def test_config_is_what_transformers_reads(tmp_path: Path, family: str, tokens: int) -> None:
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    path = write_gguf(tmp_path / "x.gguf", family, tokens=tokens)
    assert open_checkpoint(path).config == load_gguf_checkpoint(str(path))["config"]


def test_a_vocabulary_is_skipped(tmp_path: Path) -> None:
    """gguf's reader makes an array of each token, twice: of 262,144 that takes half a minute."""
    path = write_gguf(tmp_path / "x.gguf", "llama", tokens=262_144)
    tokens = read_gguf_layout(path).fields["tokenizer.ggml.tokens"]
    assert (len(tokens.parts), tokens.data) == (5, [])
    checkpoint = open_checkpoint(path)
    assert checkpoint.config is not None
    assert checkpoint.config["vocab_size"] == 262_144
    assert checkpoint.read("model.norm.weight").shape == (32,)


@pytest.mark.parametrize("kind", QUANTIZATIONS)
def test_quantization_is_what_transformers_loads(tmp_path: Path, kind: str) -> None:
    path = write_gguf(tmp_path / "x.gguf", "llama", kind, hidden=256)
    checkpoint, truth = open_checkpoint(path), loaded_by_transformers(path)
    name = "model.layers.1.self_attn.q_proj.weight"
    assert checkpoint.tensors[name].stored_as == kind
    torch.testing.assert_close(checkpoint.read(name), truth[name], rtol=0, atol=0, equal_nan=True)


def test_sizes_that_transformers_does_not_take_from_the_file(tmp_path: Path) -> None:
    """Its config has Qwen3's usual head size; the file's own shapes count here."""
    write_gguf(tmp_path / "x.gguf", "qwen3", head_dim=16)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.shape("model.layers.0.self_attn.q_proj.weight") == (64, 32)
    assert checkpoint.read("model.layers.0.self_attn.q_proj.weight").shape == (64, 32)


@pytest.mark.parametrize("kv_heads", [True, False])
def test_rows_of_q_and_k_are_put_back_in_order(tmp_path: Path, kv_heads: bool) -> None:
    """Without the number of k and v heads, llama.cpp has as many as of q; transformers leaves the rows permuted."""
    model = tiny_llama(num_key_value_heads=4)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    path = write_llama_gguf(tmp_path / "x.gguf", model, weights, "F32", kv_heads=kv_heads)
    checkpoint = open_checkpoint(path)
    for name in checkpoint.names():
        assert torch.equal(checkpoint.read(name), weights[name]), name


def test_llama_without_its_number_of_heads(tmp_path: Path) -> None:
    model = tiny_llama()
    path = write_llama_gguf(tmp_path / "x.gguf", model, dict(model.state_dict()), "F32", heads=False)
    with refused(r"lacks llama\.attention\.head_count"):
        open_checkpoint(path)


def test_matrices_that_transformers_has_no_name_for_are_listed(tmp_path: Path) -> None:
    """A Mixtral in llama.cpp's architecture ``llama``, of which transformers makes a Llama without its experts."""
    paths = []
    experts = {f"blk.0.ffn_{part}_exps.weight": torch.ones(3, 24, 16).numpy() for part in ("gate", "up")}
    vector = {"blk.0.exp_probs_b.bias": torch.ones(3).numpy()}
    for seed in (0, 1):
        model = tiny_llama(seed)
        path = write_llama_gguf(
            tmp_path / f"{seed}.gguf", model, dict(model.state_dict()), "F32", others=experts | vector
        )
        paths.append(path)
    base, tuned = (open_checkpoint(path) for path in paths)
    pairing = pair_sides(base, tuned)
    assert len(pairing.pairs) == 14
    listed = [skipped.name for skipped in pairing.skipped if "has no name for it" in skipped.reason]
    assert listed == list(experts)
    with refused("2 matrices that are not read, without which a model cannot"):
        planned_checkpoint(base, tuned, {})


def header(fields: bytes, tensors: bytes = b"", counts: tuple[int, int] = (0, 1), version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, *counts) + fields + tensors


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def array_of(kind: int, count: int) -> bytes:
    return text(b"k") + struct.pack("<IIQ", 9, kind, count)


def info(name: bytes, sizes: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset)


LIES = {
    "nothing": b"",
    "no GGUF": b"GGML" + bytes(60),
    "version 1": header(b"", counts=(0, 0), version=1),
    "big-endian": header(b"", counts=(0, 0), version=3 << 24),
    "2^60 fields": header(b"", counts=(0, 2**60)),
    "2^60 tensors": header(b"", counts=(2**60, 0)),
    "an array of 2^60 bytes": header(array_of(0, 2**60)),
    "an array of 2^63 strings": header(array_of(8, 2**63)),
    "an array of 2^63 arrays": header(array_of(9, 2**63)),
    "2,000 strings in no bytes": header(array_of(8, 2000)),
    "2,000 strings, the first of 2^63 bytes": header(
        array_of(8, 2000) + struct.pack("<Q", 2**63) + bytes(16_000)
    ),
    "2,000 strings, the last past the end": header(
        array_of(8, 2000) + bytes(8 * 1999) + struct.pack("<Q", 9)
    ),
    "a key of 2^62 bytes": header(struct.pack("<Q", 2**62)),
    "a key that is no UTF-8": header(text(b"\xff") + struct.pack("<IB", 0, 0)),
    "a key that a terminal would obey": header(text(b"\x1b[2J") + struct.pack("<IB", 0, 0)),
    "an unknown type": header(text(b"k") + struct.pack("<I", 99)),
    "arrays without end": header(text(b"k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 20),
    "arrays deeper than a stack": header(text(b"k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 9999),
    "a key twice": header((text(b"k") + struct.pack("<IB", 0, 0)) * 2, counts=(0, 2)),
    "a shape past 64 bits": header(b"", info(b"a", (2**63, 2**63)), (1, 0)),
    "another shape past 64 bits": header(b"", info(b"a", (2**32 + 1, 2**32)), (1, 0)) + bytes(99),
    "an offset past the file": header(b"", info(b"a", (1,), 0, 2**40), (1, 0)),
    "an offset past 64 bits": header(b"", info(b"a", (1,), 0, 2**64 - 1), (1, 0)),
    "an unknown quantization": header(b"", info(b"a", (32,), 999), (1, 0)),
    "a row of half a block": header(b"", info(b"a", (16,), 2), (1, 0)) + bytes(99),
    "a tensor that a terminal would obey": header(b"", info(b"a\n", (1,)), (1, 0)) + bytes(99),
    "two tensors in one place": header(b"", info(b"a", (8,)) + info(b"b", (8,)), (2, 0)) + bytes(99),
    "a name twice": header(b"", info(b"a", (8,)) + info(b"a", (8,), 0, 32), (2, 0)) + bytes(199),
}


@pytest.mark.parametrize("content", LIES.values(), ids=LIES.keys())
def test_headers_that_lie(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.gguf").write_bytes(content)
    with refused(r"^'.*x\.gguf' is no.*; download it again$"):
        read_gguf_layout(tmp_path / "x.gguf")


def test_architecture_that_transformers_does_not_load(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "clip")
    writer.add_tensor("a", torch.zeros(2, 2).numpy())
    finished(writer, tmp_path / "x.gguf")
    with refused(r"cannot be read as GGUF by transformers: .*clip is not supported"):
        open_checkpoint(tmp_path / "x.gguf")


def test_more_layers_than_tensors(tmp_path: Path) -> None:
    """A skeleton of a million layers is not built for a file of a few tensors."""
    path = write_gguf(tmp_path / "x.gguf", "llama")
    content = path.read_bytes()
    key = text(b"llama.block_count") + struct.pack("<I", 4)
    assert content.count(key) == 1
    at = content.index(key) + len(key)
    path.write_bytes(content[:at] + struct.pack("<I", 1_000_000) + content[at + 4 :])
    with refused("num_hidden_layers = 1,000,000 and has 21 tensors"):
        open_checkpoint(path)


@pytest.fixture
def split(tmp_path: Path) -> list[Path]:
    """A model of 21 tensors in three files, alone in a folder."""
    folder = tmp_path / "split"
    folder.mkdir()
    write_gguf(folder / "m.gguf", "llama", each=8)
    files = sorted(folder.iterdir())
    assert [file.name for file in files] == [f"m-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    return files


def test_every_file_and_the_folder_stand_for_the_whole_model(tmp_path: Path, split: list[Path]) -> None:
    whole = open_checkpoint(write_gguf(tmp_path / "whole.gguf", "llama"))
    for path in (*split, split[0].parent):
        checkpoint = open_checkpoint(path)
        assert checkpoint.names() == whole.names()
        assert checkpoint.config == whole.config
        assert all(torch.equal(checkpoint.read(name), whole.read(name)) for name in whole.names())


def test_config_and_tokenizer_come_from_the_first_file(
    tmp_path: Path, split: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoTokenizer

    from_pretrained = Mock()  # the tiny files have tokens alone
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", from_pretrained)
    write_companions(open_checkpoint(str(split[1])), split[1], tmp_path, torch.float32)
    from_pretrained.assert_called_once_with(split[0].parent, gguf_file=split[0].name)
    assert (tmp_path / "config.json").is_file()


def without_the_first(files: list[Path]) -> Path:
    files[0].unlink()
    return files[1]


def under_another_name(files: list[Path]) -> Path:
    return files[1].rename(files[1].with_name("second.gguf"))


def in_another_order(files: list[Path]) -> Path:
    first, second = files[0].read_bytes(), files[1].read_bytes()
    files[0].write_bytes(second)
    files[1].write_bytes(first)
    return files[2]


def of_another_model(files: list[Path]) -> Path:
    writer = gguf.GGUFWriter(files[2], "llama")
    writer.add_uint16("split.no", 2)
    writer.add_uint16("split.count", 3)
    writer.add_tensor("output_norm.weight", np.ones(32, np.float32))
    finished(writer, files[2])
    return files[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without_the_first, r"one of 3 files .* lacks 'm-00001-of-00003\.gguf'; download all"),
        (under_another_name, r"'model-00001-of-00003\.gguf'; give all of them the names"),
        (in_another_order, "not all of them under their own names: 21 tensors"),
        (of_another_model, "own names: 17 tensors; expected 21"),
    ],
)
def test_a_split_model_that_is_not_whole(
    change: Callable[[list[Path]], Path], said: str, split: list[Path]
) -> None:
    with refused(said):
        open_checkpoint(change(split))
