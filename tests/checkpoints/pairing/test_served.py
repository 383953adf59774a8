"""Whether a runtime applies an adapter: six made for the purpose, one for each way of not being applied in full.

PEFT loads every one of them here. What the other runtimes do is written down: their own code (the files that
``served.py`` cites, at those versions) ran on the adapters and the base that this file makes, with
the layers of a GPU replaced. llama.cpp is its whole converter.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from intruders.checkpoints.pairing.inspect import open_parts
from intruders.checkpoints.pairing.served import Served, served_by
from intruders.errors import SettingError
from tests.checkpoints.models import (
    change_config,
    refused,
    saved,
    tiny_gpt2,
    tiny_llama,
    tiny_llava,
    with_lora,
)
from tests.commands import in_this_process

QUERIES_AND_VALUES = ["q_proj", "v_proj"]


def of_text() -> nn.Module:
    """The language model of tiny_llava, alone."""
    return tiny_llama(hidden_size=32, intermediate_size=48, vocab_size=64)


def lora(model: nn.Module | None = None, **settings: Any) -> nn.Module:
    values = {"r": 4, "lora_alpha": 8, "target_modules": QUERIES_AND_VALUES, **settings}
    adapted: nn.Module = with_lora(model or of_text(), **values)
    return adapted


def of_another_class(folder: Path) -> Path:
    modules = [
        f"language_model.layers.{layer}.self_attn.{name}" for layer in (0, 1) for name in QUERIES_AND_VALUES
    ]
    return saved(lora(tiny_llava(), target_modules=modules), folder)


def with_added_tokens(folder: Path) -> Path:
    larger = of_text()
    larger.resize_token_embeddings(68)
    lora(larger).save_pretrained(folder, save_embedding_layers=True)
    return folder


SIX: dict[str, Callable[[Path], Path]] = {
    "another class": of_another_class,
    "queries alone": lambda folder: saved(lora(target_modules=["q_proj"]), folder),
    "rsLoRA": lambda folder: saved(lora(use_rslora=True), folder),
    "DoRA": lambda folder: saved(lora(use_dora=True), folder),
    "added tokens": with_added_tokens,
    "biases": lambda folder: saved(lora(lora_bias=True), folder),
}

# How many weights the runtime's own code applied, None where it refused the file, and whether something else was left.
THEIRS: dict[str, dict[str, tuple[int | None, list[str]]]] = {
    "another class": {"vllm": (0, ["q_proj, v_proj"]), "sglang": (4, []), "llama.cpp": (4, [])},
    "queries alone": {"vllm": (2, []), "sglang": (None, ["q_proj"]), "llama.cpp": (2, [])},
    "rsLoRA": {
        "vllm": (4, []),
        "sglang": (4, ["rsLoRA"]),
        "llama.cpp": (4, ["rsLoRA"]),
    },  # at 8 / 4, not 8 / 2
    "DoRA": dict.fromkeys(["vllm", "sglang", "llama.cpp"], (None, ["DoRA"])),
    "added tokens": {
        "vllm": (None, ["saved embeddings or head"]),
        "sglang": (4, ["saved embeddings or head"]),
        "llama.cpp": (None, ["saved embeddings or head"]),
    },
    "biases": {"vllm": (None, ["biases"]), "sglang": (4, ["biases"]), "llama.cpp": (None, ["biases"])},
}


def served(runtime: str, folder: Path, base: Any = None) -> Served:
    return served_by(runtime, open_parts(str(folder)), base)


def answer(result: Served) -> tuple[int | None, list[str]]:
    """The number of weights that are applied, and what is ignored or refused for its own sake."""
    applied = sum(len(part.weights) for part in result.parts if part.outcome == "applied")
    left = [part for part in result.parts if part.outcome in ("ignored", "refused")]
    for part in left:
        assert part.reason
        assert part.way_out or part.reason == "the adapter is refused"
    return None if result.refused else applied, [part.what for part in left if part.way_out]


@pytest.mark.parametrize("case", SIX)
def test_what_is_said_is_what_the_runtimes_own_code_does(case: str, tmp_path: Path) -> None:
    folder, base = SIX[case](tmp_path / "adapter"), str(saved(of_text(), tmp_path / "base"))
    for runtime, does in THEIRS[case].items():
        result = served(runtime, folder, base)
        assert answer(result) == does, runtime
        assert result.in_full == (does[1] == [])


def loaded_by_peft(folder: Path, model: nn.Module) -> int | None:
    """The number of modules whose B is that of the file after PEFT has loaded it; None where PEFT refuses it."""
    stored = {
        name.removesuffix(".lora_B.weight"): tensor
        for name, tensor in load_file(folder / "adapter_model.safetensors").items()
        if name.endswith(".lora_B.weight")
    }
    try:
        made = peft.PeftModel.from_pretrained(model, folder)
    except (ValueError, RuntimeError):
        return None
    state = made.state_dict()
    return sum(
        torch.equal(state.get(f"{name}.lora_B.default.weight", torch.zeros(0)), tensor)
        for name, tensor in stored.items()
    )


@pytest.mark.parametrize("case", SIX)
@pytest.mark.parametrize("base", [of_text, tiny_llava])
def test_transformers_is_what_peft_loads(case: str, base: Callable[[], nn.Module], tmp_path: Path) -> None:
    """On the language model, and on the model that has it as a part."""
    folder, model = SIX[case](tmp_path / "adapter"), saved(base(), tmp_path / "base")
    assert answer(served("transformers", folder, str(model)))[0] == loaded_by_peft(folder, base())


def test_of_a_model_that_sees_vllm_finds_the_names_of_both_classes(tmp_path: Path) -> None:
    """As its code did; of a vision tower by default nothing, which SGLang takes for the language model."""
    base = str(saved(tiny_llava(), tmp_path / "base"))
    assert served("vllm", of_another_class(tmp_path / "its"), base).in_full
    assert served("vllm", saved(lora(), tmp_path / "text"), base).in_full
    both = saved(lora(tiny_llava()), tmp_path / "both")
    assert answer(served("vllm", both, base)) == (4, ["q_proj, v_proj"])
    assert answer(served("llama.cpp", both, base)) == (4, ["q_proj, v_proj"])
    assert served("sglang", both, base).refused
    assert answer(served("transformers", both, base)) == (loaded_by_peft(both, tiny_llava()), [])


def fuse(folder: Path) -> None:
    """Make it an adapter of q, k and v in one, as of a model that stores them so."""
    tensors = {
        f"base_model.model.model.layers.{layer}.self_attn.qkv_proj.{end}": tensor
        for layer in (0, 1)
        for end, tensor in (("lora_A.weight", torch.ones(4, 32)), ("lora_B.weight", torch.ones(64, 4)))
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    change_config(folder, target_modules=["qkv_proj"])


# By the code of vLLM, SGLang and llama.cpp again: does it take the adapter in full, without it, or not at all?
SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "plain": ({}, "full full full"),
    "alpha_pattern": ({"alpha_pattern": {"v_proj": 2}}, "full part part"),
    "rank_pattern": ({"rank_pattern": {"v_proj": 2}}, "full none full"),
    "rank 32": ({"r": 32}, "none full full"),
    "pattern": ({"target_modules": r".*\.(q|v)_proj"}, "full none full"),
    "all-linear": ({"target_modules": "all-linear"}, "full full full"),
    "one layer": ({"layers_to_transform": [1]}, "full full full"),
    "up alone": ({"target_modules": ["up_proj"]}, "full none full"),
    "gate alone": ({"target_modules": ["gate_proj"]}, "full full full"),
    "head": ({"target_modules": [*QUERIES_AND_VALUES, "lm_head"]}, "full full full"),
    "PiSSA": ({"init_lora_weights": "pissa"}, "none part part"),
    "aLoRA": ({"alora_invocation_tokens": [3]}, "none part full"),
    "KaSA": ({"kasa_config": peft.KasaConfig()}, "none none none"),
    "rsLoRA of several ranks": ({"use_rslora": True, "rank_pattern": {"v_proj": 2}}, "full none part"),
    "norms": ({"modules_to_save": ["norm"]}, "none none part"),
    "modules": ({"modules_to_save": ["down_proj"]}, "none none none"),
    "tokens": ({"trainable_token_indices": [3]}, "none part none"),
}


@pytest.mark.parametrize("case", [*SETTINGS, "fused"])
def test_settings_are_what_the_runtimes_own_code_does(case: str, tmp_path: Path) -> None:
    settings, does = SETTINGS.get(case, ({}, "none full none"))
    folder, base = saved(lora(**settings), tmp_path / "adapter"), str(saved(of_text(), tmp_path / "base"))
    if case == "fused":
        fuse(folder)
    said = [served(runtime, folder, base) for runtime in ("vllm", "sglang", "llama.cpp")]
    assert " ".join("none" if of.refused else "full" if of.in_full else "part" for of in said) == does


def test_classes_of_vllm(tmp_path: Path) -> None:
    """GPT-2 has no LoRA there, and Qwen2 none on its head (vllm/model_executor/models/gpt2.py, qwen2.py)."""
    gpt2 = saved(lora(tiny_gpt2(), target_modules=["c_attn"], fan_in_fan_out=True), tmp_path / "gpt2")
    assert served("vllm", gpt2, str(saved(tiny_gpt2(), tmp_path / "base"))).refused
    head, model = (
        saved(lora(target_modules=["lm_head"]), tmp_path / "head"),
        saved(of_text(), tmp_path / "model"),
    )
    assert served("vllm", head, str(model)).in_full
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"architectures": ["Qwen2ForCausalLM"]}))
    assert served("vllm", head, str(model)).refused


def test_on_the_command_line(tmp_path: Path) -> None:
    """The base is the one that the adapter names, if it is here; what is told fits one screen."""
    base = saved(of_text(), tmp_path / "base")
    folder = SIX["rsLoRA"](tmp_path / "adapter")
    unknown = in_this_process("inspect", str(folder), "--for", "sglang")
    assert "not known without its base" in unknown.stdout
    assert "pass --base BASE" in unknown.stdout
    change_config(folder, base_model_name_or_path=str(base))
    done = in_this_process("inspect", str(folder), "--for", "sglang")
    assert done.returncode == 1
    assert (
        "write lora_alpha 16 and use_rslora false into adapter_config.json" in done.stdout
    )  # 16 / 4 = 8 / sqrt(4)
    assert len(done.stdout.splitlines()) < 12
    document = json.loads(in_this_process("inspect", str(folder), "--for", "vllm", "--json").stdout)
    assert [part["outcome"] for part in document["parts"]] == ["applied", "applied"]
    assert in_this_process("inspect", str(folder), "--for", "vllm").returncode == 0
    failed = in_this_process("inspect", str(base), "--for", "vllm")
    assert failed.returncode == 2
    assert "expected one adapter" in failed.stderr
    with refused("expected vllm, sglang", SettingError):
        served("ollama", folder)
