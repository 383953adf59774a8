"""Shows the peak memory of an audit of a 7B-shaped checkpoint on disk, in a process of its own.

Decoder layers of Llama-2-7B's shapes in bf16, one shard a layer, are written to a temporary folder layer by layer;
beside them a rank-16 adapter, and a checkpoint with every matrix changed.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from .inputs import HOT, MILD, RANK, llm_like, lora_update

LAYERS, QUICK_LAYERS = 8, 1
SHAPES = {
    "self_attn.q_proj": (4096, 4096),
    "self_attn.k_proj": (4096, 4096),
    "self_attn.v_proj": (4096, 4096),
    "self_attn.o_proj": (4096, 4096),
    "mlp.gate_proj": (11008, 4096),
    "mlp.up_proj": (11008, 4096),
    "mlp.down_proj": (4096, 11008),
}
# An eighth of each side.
QUICK_SHAPES = {name: (m // 8, n // 8) for name, (m, n) in SHAPES.items()}
TARGET_BYTES = 3 * 2**29  # 1.5 GiB


@dataclass(frozen=True)
class Peak:
    """What one audit in a process of its own needed."""

    label: str
    checkpoint_bytes: int  # of the base on disk
    peak_bytes: int
    import_bytes: int  # of these, what the process held before the audit: Python and torch
    seconds: float
    matrices: int
    intruders: int


def peaks(layers: int = LAYERS, shapes: dict[str, tuple[int, int]] = SHAPES) -> Iterator[Peak]:
    """The peak with an adapter, and with a checkpoint of which every matrix changed."""
    with tempfile.TemporaryDirectory() as folder:
        base, tuned, adapter = (Path(folder) / name for name in ("base", "tuned", "adapter"))
        _write(base, tuned, adapter, layers, shapes)
        size = sum(file.stat().st_size for file in base.iterdir())
        for label, other in (("adapter of rank 16", adapter), ("every matrix changed", tuned)):
            command = [sys.executable, "-m", "benchmarks.memory", str(base), str(other)]
            report = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            yield Peak(label, size, **json.loads(report))


def _write(base: Path, tuned: Path, adapter: Path, layers: int, shapes: dict[str, tuple[int, int]]) -> None:
    """Every second layer has a hot update, the others a mild one."""
    from safetensors.torch import save_file

    for folder in (base, tuned, adapter):
        folder.mkdir()
    factors: dict[str, Tensor] = {}
    where: dict[str, str] = {}
    for layer in range(layers):
        before, after = {}, {}
        for index, (name, (m, n)) in enumerate(shapes.items()):
            seed = 100 * layer + index
            module = f"model.layers.{layer}.{name}"
            matrix = llm_like(m, n, seed)
            left, right = lora_update(m, n, HOT if layer % 2 == 0 else MILD, seed + 50)
            before[f"{module}.weight"] = matrix.bfloat16()
            after[f"{module}.weight"] = matrix.addmm_(left, right).bfloat16()
            factors[f"base_model.model.{module}.lora_A.weight"] = right
            factors[f"base_model.model.{module}.lora_B.weight"] = left
        file = f"model-{layer + 1:05d}-of-{layers:05d}.safetensors"
        where |= dict.fromkeys(before, file)
        save_file(before, base / file)
        save_file(after, tuned / file)
    weight_map = json.dumps({"metadata": {}, "weight_map": where})
    for folder in (base, tuned):
        (folder / "model.safetensors.index.json").write_text(weight_map)
    save_file(factors, adapter / "adapter_model.safetensors")
    names = sorted({name.rsplit(".", 1)[1] for name in shapes})
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": names}
    (adapter / "adapter_config.json").write_text(json.dumps(config))


def resident_peak() -> int:
    """Bytes. Linux carries ``ru_maxrss`` over from the process that started this one, and so is asked otherwise."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _audit(base: str, tuned: str) -> None:
    import intruders
    from intruders.audits.audit import audit

    before = resident_peak()
    started = time.perf_counter()
    found: intruders.Audit = audit(base, tuned, cache=False, device="cpu")
    print(
        json.dumps(
            {
                "peak_bytes": resident_peak(),
                "import_bytes": before,
                "seconds": time.perf_counter() - started,
                "matrices": len(found.matrices),
                "intruders": found.intruders,
            }
        )
    )


if __name__ == "__main__":
    _audit(*sys.argv[1:])
