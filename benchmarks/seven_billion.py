"""Measures a model of Llama-2-7B's full shape: ``python -m benchmarks.seven_billion [--quick] [--folder DIR]``.

It writes a checkpoint of that shape (bfloat16, random, forward-stable), and two rank-16 adapters, without and with
intruders. Then it runs the commands that a user would type, each in a process of its own, and prints the time and the
peak memory of each. ``--quick`` takes an eighth of each side and two layers. The folder needs 30 GB and can be used
again; without ``--folder`` it is temporary. ``--only audit,evaluate`` runs these steps alone; mitigate reads the audit
that ``cached`` writes.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .inputs import HOT, MILD, RANK, llm_like, lora_update
from .machine import this_machine
from .memory import QUICK_SHAPES, SHAPES, resident_peak

LAYERS, QUICK_LAYERS = 32, 2
VOCABULARY = 32_000
# Layers made from nothing; the others have their matrices with rows and columns permuted, which keeps all spectra.
MADE = 2
TOKENS = 64  # of the one short document


@dataclass(frozen=True)
class Step:
    """One command, and what it is for."""

    group: str
    label: str
    arguments: tuple[str, ...]


def write_model(folder: Path, layers: int, shapes: dict[str, tuple[int, int]]) -> None:
    """Write a checkpoint that transformers loads as a Llama, one shard a layer, with a tokenizer of its own."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    hidden, inner = shapes["self_attn.q_proj"][0], shapes["mlp.gate_proj"][0]
    made = [
        {
            name: llm_like(*shape, seed=1000 * copy + index)
            for index, (name, shape) in enumerate(shapes.items())
        }
        for copy in range(min(MADE, layers))
    ]
    generator = torch.Generator().manual_seed(7)
    where: dict[str, str] = {}
    ones = torch.ones(hidden, dtype=torch.bfloat16)
    for layer in range(layers):
        tensors: dict[str, Tensor] = {}
        for name, matrix in made[layer % len(made)].items():
            m, n = matrix.shape
            permuted = (
                matrix[torch.randperm(m, generator=generator)][:, torch.randperm(n, generator=generator)]
                if layer >= len(made)
                else matrix
            )
            tensors[f"model.layers.{layer}.{name}.weight"] = permuted.bfloat16()
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{layer}.{norm}.weight"] = ones.clone()
        where |= _saved(tensors, folder / f"model-{layer + 1:05d}-of-{layers + 1:05d}.safetensors", save_file)
    ends = {
        "model.embed_tokens.weight": torch.randn(VOCABULARY, hidden, generator=generator).bfloat16(),
        "lm_head.weight": (torch.randn(VOCABULARY, hidden, generator=generator) / hidden**0.5).bfloat16(),
        "model.norm.weight": ones,
    }
    where |= _saved(ends, folder / f"model-{layers + 1:05d}-of-{layers + 1:05d}.safetensors", save_file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden,
        "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": max(1, hidden // 128),
        "num_key_value_heads": max(1, hidden // 128), "vocab_size": VOCABULARY, "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "dtype": "bfloat16", "bos_token_id": 1,
        "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    _write_tokenizer(folder)


def write_adapter(
    folder: Path, base: Path, layers: int, shapes: dict[str, tuple[int, int]], size: float
) -> None:
    """Write a LoRA adapter of every linear layer, of spectral norm ``size`` times the base's first spike."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    factors: dict[str, Tensor] = {}
    for layer in range(layers):
        for index, (name, (m, n)) in enumerate(shapes.items()):
            left, right = lora_update(m, n, size, seed=100 * layer + index)
            factors[f"base_model.model.model.layers.{layer}.{name}.lora_A.weight"] = right
            factors[f"base_model.model.model.layers.{layer}.{name}.lora_B.weight"] = left
    save_file(factors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": RANK,
        "target_modules": sorted({name.rsplit(".", 1)[1] for name in shapes}),
        "base_model_name_or_path": str(base),
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))


def steps(folder: Path) -> Iterator[Step]:
    """Yield the commands in the order in which they run; later ones use what earlier ones wrote."""
    base, mild, hot = str(folder / "base"), str(folder / "mild"), str(folder / "hot")
    rows = str(folder / "rows.jsonl")
    cache = ("--cache", str(folder / "cache"))
    of_task = ("--task", rows, "--prompt", "prompt", "--completion", "completion")
    on_text = ("--loss-on", "pydoc", "--max-tokens", str(TOKENS))
    few = ("--max-documents", "2", "--max-examples", "2")
    audited = str(folder / "hot.json")  # steps after the audit use it, as their user would
    yield Step("audit", "audit, without intruders, nothing cached", ("audit", base, mild, *cache))
    yield Step("audit", "audit, without intruders, base cached", ("audit", base, mild, *cache))
    yield Step("audit", "audit, with intruders, nothing cached", ("audit", base, hot, "--no-cache"))
    yield Step(
        "cached", "audit, with intruders, base cached", ("audit", base, hot, *cache, "--json", audited)
    )
    yield Step("scale", "scale from weights, with intruders", ("scale", base, hot, *cache))
    yield Step(
        "evaluate",
        f"evaluate, base and tuned, a document of {TOKENS} tokens",
        ("evaluate", hot, "--base", base, *on_text, "--max-documents", "1", "--dtype", "auto"),
    )
    yield Step(
        "measured",
        "scale measured, two documents and two examples",
        ("scale", base, hot, *on_text, *of_task, *few, *cache, "--dtype", "auto"),
    )
    # Without intruders, so that the time is that of losses, gradients and answers: where there are some, the control
    # that removes them takes as long as ``mitigate``.
    yield Step(
        "heal",
        "heal without intruders, one step, two documents and examples",
        (
            "heal", base, mild, *on_text, *of_task, *few, "--steps", "1", "--allow", "10", *cache, "--dtype", "auto",
            "--out", str(folder / "healed"), "--force",
        ),
    )  # fmt: skip
    yield Step(
        "mitigate",
        "mitigate to an adapter",
        (
            "mitigate",
            base,
            hot,
            "--scale",
            "0",
            "--audit",
            audited,
            *cache,
            "--out",
            str(folder / "mitigated"),
            "--force",
        ),
    )
    yield Step(
        "merge",
        "half of the update to a checkpoint",
        ("scale", base, hot, "--at", "0.5", "--as", "checkpoint", "--out", str(folder / "merged"), "--force"),
    )
    yield Step("verify", "verify that checkpoint", ("verify", base, f"{hot}@0.5", str(folder / "merged")))


def run(step: Step) -> dict[str, Any]:
    """Run a command in a process of its own; its output goes to the terminal."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [sys.executable, "-m", "benchmarks.seven_billion", "--run", file.name, *step.arguments]
        started = time.perf_counter()
        done = subprocess.run(command, check=False)
        seconds = time.perf_counter() - started
        peak = json.loads(Path(file.name).read_text() or "{}")
    return {"status": done.returncode, "seconds": seconds, **peak}


def main(arguments: list[str]) -> None:
    """Write the models, run the commands and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="an eighth of each side, two layers")
    parser.add_argument("--folder", type=Path, help="where the models are written, and found again")
    parser.add_argument("--only", help="comma-separated groups: audit, cached, scale, evaluate, ...")
    options = parser.parse_args(arguments)
    layers = QUICK_LAYERS if options.quick else LAYERS
    shapes = QUICK_SHAPES if options.quick else SHAPES
    only = options.only.split(",") if options.only else None
    print(this_machine())
    with _folder(options.folder) as folder:
        if not (folder / "done").exists():
            started = time.perf_counter()
            for name in ("base", "mild", "hot"):
                shutil.rmtree(folder / name, ignore_errors=True)
            write_model(folder / "base", layers, shapes)
            write_adapter(folder / "mild", folder / "base", layers, shapes, MILD)
            write_adapter(folder / "hot", folder / "base", layers, shapes, HOT)
            _write_task(folder)
            (folder / "done").touch()
            print(f"written in {time.perf_counter() - started:.0f} s")
        size = sum(file.stat().st_size for file in (folder / "base").iterdir())
        print(f"base: {layers} layers, {size / 2**30:.2f} GiB in bfloat16; adapters of rank {RANK}")
        lines = []
        for step in steps(folder):
            if only is not None and step.group not in only:
                continue
            print(f"\n$ intruders {' '.join(step.arguments)}", flush=True)
            measured = run(step)
            peak = f"{measured['peak'] / 2**30:.2f} GiB" if "peak" in measured else "not known"
            lines.append(
                f"{step.label:<60} {measured['seconds']:>7.1f} s ({measured.get('processor', 0.0):.0f} of the "
                f"processors)  peak {peak}  exit {measured['status']}"
            )
            print(lines[-1], flush=True)
        print("\n" + "\n".join(lines))


def _run_command(file: str, arguments: list[str]) -> None:
    """Run ``intruders`` with these arguments in this process, and write its peak and its processor time to a file."""
    from intruders.cli.main import main as intruders

    sys.argv = ["intruders", *arguments]
    try:
        intruders()
    finally:
        Path(file).write_text(json.dumps({"peak": resident_peak(), "processor": time.process_time()}))


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given.resolve()
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _saved(tensors: dict[str, Tensor], file: Path, save: Any) -> dict[str, str]:
    save(tensors, file, metadata={"format": "pt"})
    return dict.fromkeys(tensors, file.name)


def _write_tokenizer(folder: Path) -> None:
    """Write a byte-level tokenizer without merges: every text has tokens, and none needs a download."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2} | {byte: 3 + place for place, byte in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)


def _write_task(folder: Path) -> None:
    rows = [{"prompt": f"{a} plus {a + 1} is ", "completion": str(2 * a + 1)} for a in range(60)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if len(sys.argv) > 3 and sys.argv[1] == "--run":
        _run_command(sys.argv[2], sys.argv[3:])
    else:
        main(sys.argv[1:])
