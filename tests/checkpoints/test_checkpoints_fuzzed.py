"""The readers' fuzz targets: bytes flipped, cut, repeated and replaced, and JSON values swapped.

Each tries 150 files, of PEFT's 50; the environment variable FUZZ_TRIES asks for more.
"""

import json
import os
import random
import signal
import struct
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file

from intruders.checkpoints.formats.gguf_layout import read_gguf_layout
from intruders.checkpoints.opening.open import open_source
from intruders.checkpoints.pairing.pair_sides import pair_sides
from intruders.checkpoints.stored.json_file import parse_json_object
from intruders.errors import IntrudersError
from tests.checkpoints.models import refused, tiny_llama

PATIENCE = 120  # seconds, after which a file of some kilobytes is taken for one that is never done with
STRANGE: list[Any] = [
    None, True, -1, 0, 2**31, 2**63, 2**64, -(2**70), 1e308, float("nan"), "", "\x00", "../../etc/passwd", "/",
    "(a+)+$", [], [[]], [2**40, 2**40], [-1], {}, {"a": {}}, "F32",
]  # fmt: skip


class NeverDoneError(BaseException):
    """Reading was ended from outside; nothing between here and the reader takes it for an error of the file."""


def damaged_bytes(content: bytes, chance: random.Random) -> bytes:
    """The content with one to four small pieces of it changed."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        kind = chance.randrange(6)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del data[at : at + chance.choice([1, 8, 100])]
        elif kind == 2:
            data[at:at] = chance.randbytes(chance.choice([1, 8, 100]))
        elif kind == 3:
            data[at : at + 8] = struct.pack(
                "<Q", chance.choice([0, 1, 2**16, 2**31, 2**40, 2**63, 2**64 - 1])
            )
        elif kind == 4:
            del data[at:]
        else:
            piece = data[at : at + chance.choice([1, 8, 64])]
            data[at:at] = piece * chance.randint(1, 3)
    return bytes(data)


def damaged_json(value: Any, chance: random.Random) -> Any:
    """The value with one place in it replaced by something strange, doubled, or left out."""
    if isinstance(value, dict) and value and chance.random() < 0.8:
        key = chance.choice(list(value))
        kind = chance.randrange(8)
        if kind == 0:
            return {name: item for name, item in value.items() if name != key}
        if kind == 1:
            return value | {chance.choice(["", "a" * 300, "..", "x\n"]): value[key]}
        return value | {key: damaged_json(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.8:
        at = chance.randrange(len(value))
        return [*value[:at], damaged_json(value[at], chance), *value[at + 1 :]]
    return chance.choice(STRANGE)


def write_safetensors(place: Path, chance: random.Random) -> Path:
    """A file whose header is damaged as JSON, or whose bytes are."""
    file = place / "x.safetensors"
    whole = save({"model.layers.0.a.weight": torch.ones(4, 3), "b": torch.zeros(2, dtype=torch.bfloat16)})
    if chance.random() < 0.4:
        file.write_bytes(damaged_bytes(whole, chance))
        return file
    (length,) = struct.unpack("<Q", whole[:8])
    header = damaged_json(json.loads(whole[8 : 8 + length]), chance)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + whole[8 + length :])
    return file


def write_adapter(place: Path, chance: random.Random) -> Path:
    """A LoRA adapter whose config or tensors are damaged."""
    config = {
        "peft_type": chance.choice(["LORA", "LORA", "LOHA", "LOKR", "ADALORA", "LORA", "LOHA"]),
        "r": 2,
        "lora_alpha": 4,
        "alpha": 4,
        "init_r": 2,
        "rank_pattern": {"a": 2},
        "alpha_pattern": {"a": 3},
        "use_rslora": False,
        "use_dora": False,
        "target_parameters": None,
        "base_model_name_or_path": "base",
    }
    tensors = {
        "LORA": {"lora_A.weight": (2, 3), "lora_B.weight": (4, 2)},
        "LOHA": {"hada_w1_a": (4, 2), "hada_w1_b": (2, 3), "hada_w2_a": (4, 2), "hada_w2_b": (2, 3)},
        "LOKR": {"lokr_w1": (2, 1), "lokr_w2": (2, 3)},
        "ADALORA": {"lora_A": (2, 3), "lora_B": (4, 2), "lora_E": (2, 1)},
    }[str(config["peft_type"])]
    state = {
        f"base_model.model.model.layers.0.a.{part}": torch.ones(shape) for part, shape in tensors.items()
    }
    if chance.random() < 0.5:
        config = damaged_json(config, chance)
    else:
        name = chance.choice(list(state))
        shape = [chance.choice([0, 1, 2, 3, 4, 7]) for _ in range(chance.randint(0, 4))]
        state[name] = torch.ones(shape)
        if chance.random() < 0.2:
            state[name.replace("layers.0", chance.choice(["layers.9", "", "..", "\n"]))] = state.pop(name)
    return written_adapter(place, config, state)


def written_adapter(place: Path, config: Any, state: dict[str, torch.Tensor]) -> Path:
    folder = place / "adapter"
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(state, folder / "adapter_model.safetensors")
    return folder


def write_index(place: Path, chance: random.Random) -> Path:
    """A sharded checkpoint whose index is damaged."""
    folder = place / "sharded"
    folder.mkdir(exist_ok=True)
    save_file({"model.layers.0.a.weight": torch.ones(4, 3)}, folder / "model-00001-of-00002.safetensors")
    save_file({"b": torch.ones(2)}, folder / "model-00002-of-00002.safetensors")
    index = {
        "metadata": {"total_size": 56},
        "weight_map": {
            "model.layers.0.a.weight": "model-00001-of-00002.safetensors",
            "b": "model-00002-of-00002.safetensors",
        },
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(damaged_json(index, chance)))
    return folder


def write_config(place: Path, chance: random.Random) -> Path:
    """A checkpoint with a damaged config, and parts of quantized weights that it may make something of."""
    folder = place / "quantized"
    folder.mkdir(exist_ok=True)
    method = chance.choice(list(QUANTIZED))
    config = {
        "model_type": "llama",
        "text_config": {"num_attention_heads": 2},
        "quantization_config": {"quant_method": method, "bits": 4, "weight_block_size": [2, 2]},
    }
    state = dict(QUANTIZED[method])
    name = chance.choice(list(state))
    if chance.random() < 0.5:
        shape = [chance.choice([0, 1, 2, 3, 8, 64]) for _ in range(chance.randint(0, 3))]
        state[name] = torch.randint(0, 100, shape).to(state[name].dtype)
    else:
        config = damaged_json(config, chance)
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


_WORDS = torch.int32
_STATE = list(b'{"quant_type": "nf4", "blocksize": 8, "dtype": "float32", "shape": [4, 4]}')
QUANTIZED: dict[str, dict[str, torch.Tensor]] = {
    "gptq": {
        "a.qweight": torch.ones(1, 8, dtype=_WORDS),
        "a.qzeros": torch.ones(2, 1, dtype=_WORDS),
        "a.scales": torch.ones(2, 8),
        "a.g_idx": torch.zeros(8, dtype=_WORDS),
    },
    "awq": {
        "a.qweight": torch.ones(4, 1, dtype=_WORDS),
        "a.qzeros": torch.ones(2, 1, dtype=_WORDS),
        "a.scales": torch.ones(2, 8),
    },
    "compressed-tensors": {
        "a.weight_packed": torch.ones(4, 4, dtype=_WORDS),
        "a.weight_scale": torch.ones(4, 2),
        "a.weight_shape": torch.tensor([4, 32]),
    },
    "fp8": {"a.weight": torch.ones(4, 4).to(torch.float8_e4m3fn), "a.weight_scale_inv": torch.ones(2, 2)},
    "bitsandbytes": {
        "a.weight": torch.ones(8, 1, dtype=torch.uint8),
        "a.weight.absmax": torch.ones(2),
        "a.weight.quant_map": torch.ones(16),
        "a.weight.quant_state.bitsandbytes__nf4": torch.tensor(_STATE, dtype=torch.uint8),
    },
}


def read_all(written: Path) -> None:
    """Reads what an audit would: every matrix of it, against a base that it may or may not fit."""
    opened = open_source(written)
    base: Any = opened
    if hasattr(opened, "tensors"):
        for name in opened.names():
            stored = opened.tensors[name]
            assert tuple(opened.read(name).shape) == stored.shape, name
    else:
        base = open_source(tiny_llama().state_dict() | {"model.layers.0.a.weight": torch.ones(4, 3)})
    for item in pair_sides(base, opened).pairs:
        item.load()


def write_adapter_made_by_peft(place: Path, chance: random.Random) -> Path:
    """An adapter of any type that PEFT's own code makes, with its config or one tensor damaged."""
    import peft

    from tests.checkpoints.adapted import move
    from tests.checkpoints.peft_types import MADE_BY_PEFT, OPTIONS

    kind = chance.choice([*MADE_BY_PEFT, *OPTIONS])
    whole = place / "whole" / kind
    if not whole.exists():
        model = peft.get_peft_model(tiny_llama(), (MADE_BY_PEFT | OPTIONS)[kind]())
        move(model, 0)
        model.save_pretrained(whole)
    config = json.loads((whole / "adapter_config.json").read_text())
    state = load_file(whole / "adapter_model.safetensors")
    if chance.random() < 0.6:
        config = damaged_json(config, chance)
    else:
        name = chance.choice(list(state))
        tensor = state.pop(name)
        if chance.random() < 0.8:
            shape = [chance.choice([0, 1, 2, 4, 8, 16, 24, 100]) for _ in range(chance.randint(0, 4))]
            number = chance.choice([0, 1, -1, 2**31, float("nan")])
            state[name] = torch.full(
                shape, 0 if number != number and not tensor.is_floating_point() else number
            ).to(tensor.dtype)
    return written_adapter(place, config, state)


def write_single_file(place: Path, chance: random.Random) -> Path:
    """kohya, diffusers and LyCORIS factors of shapes that mostly do not fit."""
    modules = ["lora_unet_a", "lora_te1_a", "unet.a", "a", "lycoris_model_layers_0_a", "a.processor"]
    kinds = [
        "lora_down.weight lora_up.weight alpha dora_scale",
        "lora_A.weight lora_B.weight lora_magnitude_vector",
        "lora.down.weight lora.up.weight",
        "hada_w1_a hada_w1_b hada_w2_a hada_w2_b hada_t1 hada_t2 alpha",
        "lokr_w1 lokr_w2_a lokr_w2_b lokr_t2 lokr_w2 alpha",
    ]
    module, parts = chance.choice(modules), chance.choice(kinds).split()
    sizes, dimensions = [0, 1, 2, 2, 2, 3, 3, 4, 4], [0, 1, 2, 2, 2, 2, 3, 4]
    state = {}
    for part in parts:
        if chance.random() < 0.85:
            shape = [chance.choice(sizes) for _ in range(chance.choice(dimensions))]
            number = chance.choice([1.0, 2.0, float("inf"), float("nan")])
            state[f"{module}.{part}"] = torch.full(shape, number)
    save_file(state, place / "x.safetensors")
    return place / "x.safetensors"


def write_pickle(place: Path, chance: random.Random, *, is_zip: bool = True) -> Path:
    """What torch.save writes; before PyTorch 1.6 that was pickles one after another, then the numbers."""
    whole = place / f"whole-{is_zip}.pt"
    if not whole.exists():
        state = {"a.weight": torch.ones(4, 3), "b": torch.ones(2)}
        torch.save(state, whole, _use_new_zipfile_serialization=is_zip)
    (place / "x.pt").write_bytes(damaged_bytes(whole.read_bytes(), chance))
    return place / "x.pt"


def write_gguf(place: Path, chance: random.Random) -> Path | None:
    from tests.checkpoints import gguf_files

    whole = place / "whole.gguf"
    if not whole.exists():
        gguf_files.write_gguf(whole, "llama", "Q4_0")
    content = whole.read_bytes()
    # The header is a fiftieth of the file; most damage goes there.
    head = damaged_bytes(content[:4000], chance) + content[4000:]
    (place / "x.gguf").write_bytes(head if chance.random() < 0.9 else damaged_bytes(content, chance))
    layout = read_gguf_layout(place / "x.gguf")
    assert all(tensor.end <= (place / "x.gguf").stat().st_size for tensor in layout.tensors)
    # transformers builds a model for each, which takes a second
    return place / "x.gguf" if chance.random() < 0.02 else None


# Each writes a damaged file or folder, and returns what is to be read, if anything.
TARGETS: dict[str, Callable[[Path, random.Random], Path | None]] = {
    "safetensors": write_safetensors,
    "adapter": write_adapter,
    "adapter made by PEFT": write_adapter_made_by_peft,
    "single file": write_single_file,
    "index": write_index,
    "config": write_config,
    "pickle": write_pickle,
    "old pickle": partial(write_pickle, is_zip=False),
    "gguf": write_gguf,
}


def outcome_of(target: str, place: Path, seed: int) -> str:
    """Return "read" or "refused", and raise what is neither an answer nor an IntrudersError of one line."""
    signal.alarm(PATIENCE)
    try:
        written = TARGETS[target](place, random.Random(seed))
        if written is not None:
            read_all(written)
    except IntrudersError as error:
        message = str(error)
    except BaseException as error:
        error.add_note(f"fuzz target '{target}', seed {seed}")
        raise
    else:
        return "read"
    finally:
        signal.alarm(0)
    assert message.isprintable(), f"fuzz target '{target}', seed {seed}: {message!r}"
    return "refused"


def _give_up(*_: object) -> None:
    raise NeverDoneError


TRIES = int(os.environ.get("FUZZ_TRIES", "150"))
# A model with an adapter that PEFT makes and saves takes many times as long as a file.
TRIES_BY_PEFT = TRIES // 3


def json_like() -> st.SearchStrategy[bytes]:
    """Objects as text, some with a key twice, a number that JSON has no name for, or a cut end."""
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=8,
    )
    whole = st.dictionaries(st.text(max_size=3), values, max_size=4).map(json.dumps)
    twice = st.tuples(st.text(max_size=2).map(json.dumps), values.map(json.dumps)).map(
        lambda pair: f"{{{pair[0]}: {pair[1]}, {pair[0]}: 1}}"
    )
    cut = st.tuples(whole, st.integers(0, 40)).map(lambda pair: pair[0][: pair[1]])
    return st.one_of(whole, twice, cut).map(str.encode)


# Files that once found something: target, seed, and what is said of each. They are tried first, for ever.
KEPT = [
    ("adapter", 20, r"has the factors \(7, 7\) and \(4, 2\) for 'model.layers.0.a'; expected \(r, in\)"),
    ("adapter", 340, "has factors for 'model.layers.0.a' that do not multiply: "),
    ("config", 473, r"the quantized parts of 'a' do not fit together \(weight_scale\)"),
]


@pytest.mark.parametrize(("target", "seed", "said"), KEPT)
def test_files_that_once_found_something(tmp_path: Path, target: str, seed: int, said: str) -> None:
    written = TARGETS[target](tmp_path, random.Random(seed))
    assert written is not None
    with refused(said):
        read_all(written)


@pytest.mark.parametrize("target", TARGETS)
def test_damaged_files(tmp_path: Path, target: str, capsys: pytest.CaptureFixture[str]) -> None:
    tries = TRIES_BY_PEFT if target == "adapter made by PEFT" else TRIES
    signal.signal(signal.SIGALRM, _give_up)
    outcomes = Counter(outcome_of(target, tmp_path, 7_000_000 + number) for number in range(tries))
    assert outcomes["refused"] > 0
    with capsys.disabled():
        print(f"\nfuzz {target}: {tries} files tried, {outcomes['read']} read, {outcomes['refused']} refused")


@given(st.one_of(st.binary(max_size=300), json_like()))
@settings(max_examples=300, deadline=None)
def test_any_bytes_as_json(content: bytes) -> None:
    """Python's own reader is the truth, but for keys that stand twice, which it lets pass."""
    twice: list[str] = []

    def noted(pairs: list[tuple[str, object]]) -> dict[str, object]:
        twice.extend(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        return dict(pairs)

    try:
        wanted = json.loads(content.decode("utf-8"), object_pairs_hook=noted)
    except ValueError:
        wanted = None
    if isinstance(wanted, dict) and not twice:
        assert repr(parse_json_object(content, "it")) == repr(wanted)  # NaN differs from itself
    else:
        with refused(r"^it "):
            parse_json_object(content, "it")
