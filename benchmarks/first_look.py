"""``python -m benchmarks.first_look``: how long ``intruders inspect`` of a GGUF file takes beside ``import torch``.

The file has a vocabulary of 262,144 tokens, as Gemma 3 has, and small matrices: what is measured is the start.
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from gguf import GGUFWriter

TOKENS, HIDDEN, HEADS = 262_144, 64, 4
REPEATS = 5


def main() -> None:
    """Runs both in turn, and prints the medians."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.gguf"
        write_model(file)
        commands = {
            "import torch": [sys.executable, "-c", "import torch"],
            "intruders inspect": [sys.executable, "-m", "intruders", "inspect", str(file)],
        }
        for command in commands.values():
            run(command)  # files are read from disk once
        costs = [{name: run(command) for name, command in commands.items()} for _ in range(REPEATS)]
    for place, unit in enumerate(("elapsed", "of processor time")):
        torch, inspect = ([cost[name][place] for cost in costs] for name in commands)
        ratio = statistics.median(ours / theirs for ours, theirs in zip(inspect, torch, strict=True))
        print(
            f"import torch {statistics.median(torch):.2f} s, intruders inspect {statistics.median(inspect):.2f} s "
            f"{unit}; ratio {ratio:.2f} (medians of {REPEATS} pairs)"
        )


def run(command: list[str]) -> tuple[float, float]:
    """Seconds that a command took: elapsed, and of processor time."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    elapsed, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return elapsed, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def write_model(path: Path) -> None:
    """One layer of a Llama."""
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_token_list([f"token {index}" for index in range(TOKENS)])
    writer.add_token_scores([0.0] * TOKENS)
    writer.add_token_types([1] * TOKENS)
    for stem in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        writer.add_tensor(f"blk.0.{stem}.weight", np.ones((HIDDEN, HIDDEN), np.float32))
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(HIDDEN, np.float32))
    writer.add_tensor("token_embd.weight", np.ones((TOKENS, HIDDEN), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
