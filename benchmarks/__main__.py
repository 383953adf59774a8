"""``python -m benchmarks [--quick] [--adapter FOLDER]``: the table, and JSON and a figure in benchmarks/results.

The full run takes under 25 minutes on two cores, nearly all of it the reference and PEFT; the quick one, on smaller
matrices, under 2.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

# The alias of the benchmarked model is looked up here, and nothing may wait for a network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from rich.console import Console

from intruders.models.quiet import hush_imports

from . import layers, memory, peers, sweep
from .figure import save_figure
from .inputs import MILD, lora
from .machine import read_rate, this_machine
from .measure import REPEATS, Row, row_of
from .pages import page_times
from .paper import checks, estimates
from .results import Results
from .small_model import QUICK_LAYERS, small_model_rows
from .table import print_results

RESULTS = Path(__file__).parent / "results"


def main(arguments: list[str]) -> None:
    options = _options(arguments)
    quick: bool = options.quick
    hush_imports()
    started = time.perf_counter()
    row_of("warm-up", lora(300, 300, MILD), repeats=1)  # libraries load, threads start
    # First, while this process is small: what it holds would count for the one that is measured.
    peaks = list(memory.peaks(memory.QUICK_LAYERS, memory.QUICK_SHAPES) if quick else memory.peaks())
    small_name, large_name = (
        ("an eighth of 7B", "an eighth of 70B") if quick else ("Llama-2-7B", "Llama-2-70B")
    )
    small_shapes = layers.QUICK if quick else layers.LLAMA_2_7B
    large_shapes = layers.QUICK_LARGE if quick else layers.LARGE
    small = _followed(layers.layer_rows(small_name, small_shapes, with_others=True, repeats=REPEATS))
    model = _followed(small_model_rows(options.adapter, QUICK_LAYERS if quick else None))
    square = _followed(sweep.sweep_rows(*sweep.QUICK) if quick else sweep.sweep_rows(*sweep.FULL))
    large = _followed(layers.layer_rows(large_name, large_shapes, with_others=False, repeats=1))
    rate = read_rate(*large_shapes[0])
    results = Results(
        machine=this_machine(),
        quick=quick,
        rows=[*small, *model, *square, *large],
        peaks=peaks,
        pages=list(page_times()),
        peers=list(peers.peer_rows(peers.QUICK if quick else peers.SHAPES)),
        checks=[] if quick else checks(small, large),
        estimates=[] if quick else estimates(large, rate),
        read_rate=rate,
        seconds=time.perf_counter() - started,
    )
    RESULTS.mkdir(exist_ok=True)
    name = "quick" if quick else "full"
    results.save(RESULTS / f"{name}.json")
    save_figure(square, RESULTS / f"{name}.png")
    console = Console(width=80, highlight=False, record=True)
    print_results(results, console)
    console.save_text(str(RESULTS / f"{name}.txt"))
    print(f"written: {RESULTS / name}.txt, {name}.json, {name}.png")


def _followed(rows: Iterator[Row]) -> list[Row]:
    """All rows, each announced when it is there: a full run has minutes without one."""
    found = []
    for row in rows:
        print(f"done: {row.section}, {row.label}", file=sys.stderr)
        found.append(row)
    return found


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="smaller matrices, under two minutes")
    parser.add_argument(
        "--adapter", type=Path, help="folder of a LoRA adapter of smollm2-135m; made by code if not given"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
