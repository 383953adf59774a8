"""The readers' fuzz targets: whole files, of which bytes, JSON values or a tensor are damaged.

Each tries 150 files, of PEFT's 50; the environment variable FUZZ_TRIES asks for more.
"""

import json
import os
import random
import shutil
import signal
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from intruders.checkpoints.formats.gguf_layout import read_gguf_layout
from intruders.checkpoints.opening.open import open_source
from intruders.checkpoints.pairing.pair_sides import pair_sides
from intruders.checkpoints.stored.json_file import parse_json_object
from intruders.errors import IntrudersError
from tests.checkpoints import gguf_files
from tests.checkpoints.adapted import move
from tests.checkpoints.models import refused, saved, tiny_llama, with_config
from tests.checkpoints.peft_types import MADE_BY_PEFT, OPTIONS

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


def damaged_header(content: bytes, chance: random.Random) -> bytes:
    """A safetensors file with a header that is damaged as JSON."""
    (length,) = struct.unpack("<Q", content[:8])
    text = json.dumps(damaged_json(json.loads(content[8 : 8 + length]), chance)).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def damage_tensor(file: Path, chance: random.Random) -> None:
    """Leave out a tensor of a safetensors file, or give it another name, or another shape and numbers."""
    state = load_file(file)
    name = chance.choice(sorted(state))
    tensor = state.pop(name)
    kind = chance.randrange(6)
    if kind == 0:
        state[name.replace("layers.0", chance.choice(["layers.9", "", "..", "\n"])) + "x"] = tensor
    elif kind > 1:
        shape = [chance.choice([0, 1, 2, 2, 3, 4, 7, 8, 16, 24, 64]) for _ in range(chance.randint(0, 4))]
        numbers = [0, 1, 2, -1, 2**31, float("inf"), float("nan")]
        number = chance.choice(numbers if tensor.is_floating_point() else numbers[:3])
        state[name] = torch.full(shape, number).to(tensor.dtype)
    save_file(state, file)


def damage(folder: Path, chance: random.Random) -> None:
    """Damage one file of a folder: a value of its JSON, a tensor, or any of its bytes."""
    file = chance.choice(sorted(folder.iterdir()))
    is_safetensors = file.suffix == ".safetensors"
    if file.suffix == ".json":
        file.write_text(json.dumps(damaged_json(json.loads(file.read_text()), chance)))
    elif is_safetensors and chance.random() < 0.6:
        damage_tensor(file, chance)
    elif is_safetensors and chance.random() < 0.6:
        file.write_bytes(damaged_header(file.read_bytes(), chance))
    elif file.suffix == ".gguf" and chance.random() < 0.9:
        content = file.read_bytes()  # of which the header is a fiftieth
        file.write_bytes(damaged_bytes(content[:4000], chance) + content[4000:])
    else:
        file.write_bytes(damaged_bytes(file.read_bytes(), chance))


WEIGHTS = {"model.layers.0.a.weight": torch.ones(4, 3), "b": torch.zeros(2, dtype=torch.bfloat16)}


def write_safetensors(folder: Path, chance: random.Random) -> None:
    save_file(WEIGHTS, folder / "x.safetensors")


def write_pickle(folder: Path, chance: random.Random) -> None:
    """What torch.save writes; before PyTorch 1.6 that was pickles one after another, then the numbers."""
    torch.save(WEIGHTS, folder / "x.pt", _use_new_zipfile_serialization=chance.random() < 0.5)


def write_index(folder: Path, chance: random.Random) -> None:
    files = {name: f"model-0000{number}-of-00002.safetensors" for number, name in enumerate(WEIGHTS, 1)}
    for name, file in files.items():
        save_file({name: WEIGHTS[name]}, folder / file)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": 52}, "weight_map": files})
    )


def write_gguf(folder: Path, chance: random.Random) -> None:
    whole = folder.parent / "whole.gguf"
    if not whole.exists():
        gguf_files.write_gguf(whole, "llama", "Q4_0")
    shutil.copy(whole, folder)


# The tensors of a module by type of PEFT, and in the files without a config of kohya, diffusers and LyCORIS.
Shapes = dict[str, tuple[int, ...]]
BY_TYPE: dict[str, Shapes] = {
    "LORA": {"lora_A.weight": (2, 3), "lora_B.weight": (4, 2)},
    "LOHA": {"hada_w1_a": (4, 2), "hada_w1_b": (2, 3), "hada_w2_a": (4, 2), "hada_w2_b": (2, 3)},
    "LOKR": {"lokr_w1": (2, 1), "lokr_w2": (2, 3)},
    "ADALORA": {"lora_A": (2, 3), "lora_B": (4, 2), "lora_E": (2, 1)},
}
CONFIG: dict[str, Any] = {"r": 2, "init_r": 2, "lora_alpha": 4, "alpha": 4, "base_model_name_or_path": "base"}
CONFIG |= {"rank_pattern": {"a": 2}, "alpha_pattern": {"a": 3}, "use_rslora": False, "use_dora": False}
CONFIG |= {"target_parameters": None}
WITHOUT_CONFIG: list[Shapes] = [
    {"lora_down.weight": (2, 3), "lora_up.weight": (4, 2), "alpha": (), "dora_scale": (4, 1)},
    {"lora_A.weight": (2, 3), "lora_B.weight": (4, 2), "lora_magnitude_vector": (4,)},
    {"lora.down.weight": (2, 3), "lora.up.weight": (4, 2)},
    {**BY_TYPE["LOHA"], "dora_scale": (4, 1), "alpha": ()},
    {"lokr_w1": (2, 1), "lokr_w2_a": (2, 2), "lokr_w2_b": (2, 3), "lokr_t2": (2, 2, 1, 1), "alpha": ()},
]


def save_module(module: str, shapes: Shapes, file: Path) -> None:
    save_file({f"{module}.{part}": torch.ones(shape) for part, shape in shapes.items()}, file)


def write_adapter(folder: Path, chance: random.Random) -> None:
    kind = chance.choice(list(BY_TYPE))
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": kind, **CONFIG}))
    save_module("base_model.model.model.layers.0.a", BY_TYPE[kind], folder / "adapter_model.safetensors")


def write_single_file(folder: Path, chance: random.Random) -> None:
    modules = ["lora_unet_a", "lora_te1_a", "lycoris_model_layers_0_a"]
    modules += ["unet.model.layers.0.a", "model.layers.0.a", "model.layers.0.a.processor"]
    save_module(chance.choice(modules), chance.choice(WITHOUT_CONFIG), folder / "x.safetensors")


def write_adapter_made_by_peft(folder: Path, chance: random.Random) -> None:
    kind = chance.choice([*MADE_BY_PEFT, *OPTIONS])
    whole = folder.parent / "whole" / kind
    if not whole.exists():
        model = peft.get_peft_model(tiny_llama(), (MADE_BY_PEFT | OPTIONS)[kind]())
        move(model, 0)
        saved(model, whole)
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(whole / file, folder)


def write_config(folder: Path, chance: random.Random) -> None:
    """Parts of quantized weights, and the config that names their method."""
    method = chance.choice(list(QUANTIZED))
    groups = {"group": {"weights": {"num_bits": 4}}} if method == "compressed-tensors" else None
    quantization = {"quant_method": method, "bits": 4, "weight_block_size": [2, 2], "config_groups": groups}
    config = {"model_type": "llama", "text_config": {"num_attention_heads": 2}}
    with_config(folder, QUANTIZED[method], config | {"quantization_config": quantization})


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


def read_all(folder: Path) -> None:
    """Reads what an audit would: every matrix of it, against a base that it may or may not fit."""
    opened = open_source(folder)
    base: Any = opened
    if hasattr(opened, "tensors"):
        for name in opened.names():
            stored = opened.tensors[name]
            assert tuple(opened.read(name).shape) == stored.shape, name
    else:
        base = open_source(tiny_llama().state_dict() | {"model.layers.0.a.weight": torch.ones(4, 3)})
    for item in pair_sides(base, opened).pairs:
        item.load()


def read_layout(folder: Path) -> None:
    """The layout alone of a GGUF file, for which transformers builds a model, in a second each."""
    layout = read_gguf_layout(folder / "whole.gguf")
    assert all(tensor.end <= (folder / "whole.gguf").stat().st_size for tensor in layout.tensors)


# What writes a whole model or adapter into a folder.
TARGETS: dict[str, Callable[[Path, random.Random], None]] = {
    "safetensors": write_safetensors,
    "adapter": write_adapter,
    "adapter made by PEFT": write_adapter_made_by_peft,
    "single file": write_single_file,
    "index": write_index,
    "config": write_config,
    "pickle": write_pickle,
    "gguf": write_gguf,
}


def outcome_of(target: str, place: Path, seed: int) -> str:
    """Return "read" or "refused", and raise what is neither an answer nor an IntrudersError of one line."""
    signal.alarm(PATIENCE)
    chance, folder = random.Random(seed), place / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        TARGETS[target](folder, chance)
        damage(folder, chance)
        read = read_layout if target == "gguf" and chance.random() < 0.98 else read_all
        read(folder)
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


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # numpy's, of damaged scales
def test_damaged_files(tmp_path: Path, target: str, capsys: pytest.CaptureFixture[str]) -> None:
    # A model with an adapter that PEFT makes and saves takes many times as long as a file.
    tries = TRIES // 3 if target == "adapter made by PEFT" else TRIES
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
