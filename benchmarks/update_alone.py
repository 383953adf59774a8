"""``python -m benchmarks.update_alone``: what ``intruders inspect`` takes for a LoRA adapter of Llama-2-7B's shapes.

The factors are random, of rank 16, in half precision, for the seven linear weights of 32 layers. B A is formed
for a few modules alone, in double precision, to compare the ranks and norms with those of its SVD.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from intruders.audits.update_alone import UpdateAlone, compare_updates, inspect_update
from intruders.linalg.spectrum import effective_rank, stable_rank

from .machine import this_machine
from .measure import timed

HIDDEN, MLP, RANK, ALPHA = 4096, 11008, 16, 32
SHAPES = {
    **{f"self_attn.{name}": (HIDDEN, HIDDEN) for name in ("q_proj", "k_proj", "v_proj", "o_proj")},
    "mlp.gate_proj": (MLP, HIDDEN),
    "mlp.up_proj": (MLP, HIDDEN),
    "mlp.down_proj": (HIDDEN, MLP),
}
REPEATS = 5


def main() -> None:
    """Prints the medians, and the largest difference to dense SVDs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--checked", type=int, default=1, help="modules whose B A is decomposed densely")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        first, second = (write_adapter(Path(folder) / str(seed), options.layers, seed) for seed in (0, 1))
        inspect_update(first)  # reads the file from disk once
        busy = time.process_time()
        alone = sorted(timed(lambda: inspect_update(first))[0] for _ in range(REPEATS))[REPEATS // 2]
        busy = (time.process_time() - busy) / REPEATS
        update = inspect_update(first)
        modules = len(update.modules)
        print(this_machine(), flush=True)
        print(f"{modules} modules of rank {RANK}, {options.layers} layers of Llama-2-7B's shapes")
        print(
            f"one adapter: {alone:.2f} s, {1000 * alone / modules:.1f} ms per module (median of {REPEATS}), "
            f"{busy:.2f} s of processor time",
            flush=True,
        )
        both = timed(lambda: compare_updates(first, second))[0]
        print(f"two adapters: {both:.2f} s, {1000 * both / modules:.1f} ms per module", flush=True)
        print(
            f"largest relative difference to the SVD of B A: {difference(first, update, options.checked):.1e}"
        )


def write_adapter(folder: Path, layers: int, seed: int) -> Path:
    """A LoRA adapter of random factors, as PEFT saves it."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(layers):
        for name, (rows, columns) in SHAPES.items():
            module = f"base_model.model.model.layers.{layer}.{name}"
            for side, shape in (("A", (RANK, columns)), ("B", (rows, RANK))):
                tensors[f"{module}.lora_{side}.weight"] = torch.randn(shape, generator=generator).half()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "r": RANK,
        "lora_alpha": ALPHA,
        "target_modules": sorted({name.rpartition(".")[2] for name in SHAPES}),
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def difference(folder: Path, update: UpdateAlone, checked: int) -> float:
    """Of norms and ranks to those of B A, decomposed densely in double precision."""
    from safetensors import safe_open

    worst = 0.0
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        for module in update.modules[:checked]:
            name = f"base_model.model.{module.name.removesuffix('.weight')}"
            down, up = (file.get_tensor(f"{name}.lora_{side}.weight").double() for side in "AB")
            values = torch.linalg.svdvals(ALPHA / RANK * up @ down)
            frobenius = values.square().sum().sqrt()
            dense = (frobenius, values[0], effective_rank(values[:RANK]), stable_rank(frobenius, values[0]))
            ours = (module.frobenius, module.spectral, module.effective_rank, module.stable_rank)
            worst = max(worst, *(abs(float(a) / b - 1) for a, b in zip(dense, ours, strict=True)))
    return worst


if __name__ == "__main__":
    main()
