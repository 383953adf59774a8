"""``python -m benchmarks.fleet [--adapters N] [--layers N] [--small-layers N]``: an adapter in a fleet, and alone.

Two bases: SmolLM2-135M with random adapters (ranks 4, 8 and 16, attention or all linear layers), and decoder layers of
Llama-2-7B's shapes with rank-16 adapters. For each a fleet without intruders and one with them. Every fleet is audited
with nothing cached, with the base cached, and with one adapter more than what is kept; some adapters are audited alone,
base cached, right after. Counts must agree. On a busy machine compare the ratios, of processor time above all.
"""

import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from safetensors.torch import save_file
from torch import Tensor

import intruders
from intruders.audits.base_cache import DiskCache
from intruders.audits.fleet.fleet_members import block_of
from intruders.checkpoints.opening.open import open_checkpoint
from intruders.models.base_model import base_model_location
from intruders.models.quiet import hush_imports

from .inputs import LARGEST, llm_like, spectral_norm
from .measure import require_equal
from .memory import SHAPES, resident_peak

MODEL = "smollm2-135m"
ALONE = 8  # adapters that are also audited alone: of four the mean was up to twice that of others
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# Spectral norm of the updates over the base's largest singular value.
KINDS = {"without intruders": (0.005, 0.03), "with intruders": (0.3, 0.9)}


@dataclass(frozen=True)
class Cost:
    """Seconds, elapsed and of processor time."""

    elapsed: float
    processor: float

    def per(self, count: float) -> "Cost":
        return Cost(self.elapsed / count, self.processor / count)

    def __str__(self) -> str:
        return f"{self.elapsed:.2f} s ({self.processor:.2f} s of processor time)"


def costs(work: Callable[[], object]) -> tuple[Cost, object]:
    """What a call takes and gives."""
    elapsed, processor = time.perf_counter(), time.process_time()
    found = work()
    return Cost(time.perf_counter() - elapsed, time.process_time() - processor), found


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet")
    parser.add_argument("--adapters", type=int, default=30, help="adapters of each fleet")
    parser.add_argument("--layers", type=int, default=1, help="decoder layers of Llama-2-7B's shapes")
    parser.add_argument("--small-layers", type=int, default=30, help="layers of SmolLM2-135M, 0 for none")
    parser.add_argument(
        "--trained", nargs="*", default=[], help="adapters of SmolLM2-135M to audit among its random ones"
    )
    parser.add_argument("--kind", choices=list(KINDS), help="fleets of this kind alone")
    options = parser.parse_args(arguments)
    hush_imports()
    intruders.audit_fleet  # noqa: B018 (imported now, or the first fleet would be charged with that)
    with tempfile.TemporaryDirectory() as folder:
        for title, base, spectra, shapes in _bases(Path(folder), options.small_layers, options.layers):
            print(f"{title}: {shared_products(max(shapes.values(), key=math.prod))}", flush=True)
            for kind, share in KINDS.items():
                if options.kind not in (None, kind):
                    continue
                place = Path(folder) / f"{title} {kind}".replace(" ", "-")
                adapters = [
                    random_adapter(place / f"{i:03d}", shapes, spectra, share, i, title == MODEL)
                    for i in range(options.adapters)
                ]
                if title == MODEL:
                    adapters += options.trained
                report(f"{title}, {len(shapes)} matrices, {len(adapters)} adapters {kind}", base, adapters)


def _bases(
    folder: Path, small_layers: int, layers: int
) -> Iterator[tuple[str, Path, Mapping[str, float], Mapping[str, tuple[int, int]]]]:
    """Name, folder, largest singular values and shapes of each base."""
    if small_layers:
        location = Path(base_model_location(MODEL))
        opened = open_checkpoint(location)
        chosen = {f"model.layers.{i}" for i in range(small_layers)}
        names = [
            name
            for name in opened.names()
            if block_of(name) in chosen and name.removesuffix(".weight").rpartition(".")[2] in LINEAR
        ]
        shapes = {name: (opened.shape(name)[0], opened.shape(name)[1]) for name in names}
        yield MODEL, location, {name: _norm(opened.read(name).float()) for name in names}, shapes
    if layers:
        base = folder / "base"
        base.mkdir()
        large = {
            f"model.layers.{i}.{name}.weight": shape for i in range(layers) for name, shape in SHAPES.items()
        }
        files = {}
        for place, (name, shape) in enumerate(large.items()):
            files[name] = f"{name}.safetensors"
            save_file({name: llm_like(*shape, seed=place).bfloat16()}, base / files[name])
        index = json.dumps({"metadata": {}, "weight_map": files})
        (base / "model.safetensors.index.json").write_text(index)
        yield "Llama-2-7B's shapes", base, dict.fromkeys(large, LARGEST), large


def shared_products(shape: tuple[int, int]) -> str:
    """What a product shared by twelve adapters saves at the most: no pass of a fleet can be cheaper than that."""
    weight = torch.randn(shape)

    def cost(rows: int) -> float:
        vectors = torch.randn(rows, shape[1])
        return min(costs(lambda: vectors @ weight.mT)[0].processor for _ in range(9))

    share = cost(12 * 10) / (12 * cost(10))
    return f"a {shape[0]} x {shape[1]} matrix times 120 vectors takes {share:.2f} of 12 products with 10 vectors each"


def _norm(weight: Tensor) -> float:
    """By power iteration: enough for a norm that is stated to one digit."""
    row = torch.ones(1, weight.shape[1])
    for _ in range(10):
        row = torch.nn.functional.normalize(row @ weight.mT @ weight, dim=-1)
    return float((row @ weight.mT).norm())


def random_adapter(
    folder: Path,
    shapes: Mapping[str, tuple[int, int]],
    spectra: Mapping[str, float],
    share: tuple[float, float],
    seed: int,
    varied: bool,
) -> str:
    """A LoRA adapter on disk with Gaussian factors, scaled to shares of the base's largest singular values.

    ``varied`` takes one of three ranks and one of two sets of targets, instead of rank 16 on all.
    """
    folder.mkdir(parents=True)
    chosen, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    rank = chosen.choice([4, 8, 16]) if varied else 16
    targets = chosen.choice([LINEAR, LINEAR[:4]]) if varied else LINEAR
    tensors = {}
    for name, (m, n) in shapes.items():
        if name.removesuffix(".weight").rpartition(".")[2] in targets:
            left = torch.randn(m, rank, generator=generator)
            right = torch.randn(rank, n, generator=generator) * (torch.arange(1, rank + 1) ** -0.5).unsqueeze(
                -1
            )
            left *= chosen.uniform(*share) * spectra[name] / spectral_norm(left, right)
            module = f"base_model.model.{name.removesuffix('.weight')}"
            tensors |= {f"{module}.lora_A.weight": right, f"{module}.lora_B.weight": left}
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": list(targets)}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return str(folder)


def report(title: str, base: Path, adapters: list[str]) -> None:
    """Prints the costs of one fleet; stops where two ways count differently."""
    print(title, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        store, out = DiskCache(Path(folder) / "bases"), Path(folder) / "out"
        cold, first = costs(lambda: intruders.audit_fleet(str(base), adapters, cache=store))
        assert isinstance(first, intruders.FleetAudit)
        counts = first.adapters["intruders"].tolist()
        cached, again = costs(lambda: intruders.audit_fleet(str(base), adapters[:-1], cache=store, out=out))
        assert isinstance(again, intruders.FleetAudit)
        further, more = costs(lambda: intruders.audit_fleet(str(base), adapters, cache=store, out=out))
        assert isinstance(more, intruders.FleetAudit)
        require_equal(title, {"cold": first.intruders, "with one more": more.intruders})
        chosen = adapters[:: max(1, len(adapters) // ALONE)][:ALONE]
        alone, audits = costs(lambda: [intruders.audit(base, one, cache=store) for one in chosen])
        assert isinstance(audits, list)
        for one, audit in zip(chosen, audits, strict=True):
            require_equal(one, {"fleet": counts[adapters.index(one)], "alone": audit.intruders})
        further_alone, _ = costs(lambda: intruders.audit(base, adapters[-1], cache=store))
        matrices = first.adapters["matrices"].astype(float)
        # Adapters change different numbers of matrices: both are stated for an adapter of the fleet's mean.
        share = matrices.mean() / (sum(len(audit.matrices) for audit in audits) / len(audits))
        single = alone.per(len(audits) / share)
        command = [sys.executable, "-m", "benchmarks.fleet", "--peak", str(base), *adapters]
        peak = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    for label, mine, other in (
        ("nothing cached", cold.per(len(adapters)), single),
        ("base cached, kept in a folder", cached.per(len(adapters) - 1), single),
        ("one adapter more", further, further_alone),
    ):
        print(
            f"  {label}: {mine} an adapter; of an audit alone: {mine.elapsed / other.elapsed:.2f} elapsed, "
            f"{mine.processor / other.processor:.2f} of processor time"
        )
    print(f"  an audit alone, base cached: {single}, {len(audits)} of them measured")
    largest, before = peak["peak"] / 2**30, peak["before"] / 2**30
    print(f"  {sum(counts):,} intruders; peak memory {largest:.2f} GiB, {before:.2f} of it at the start")


def _print_peak(base: str, adapters: list[str]) -> None:
    before = resident_peak()
    intruders.audit_fleet(base, adapters, cache=False)
    print(json.dumps({"peak": resident_peak(), "before": before}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        _print_peak(sys.argv[2], sys.argv[3:])
    else:
        main(sys.argv[1:])
