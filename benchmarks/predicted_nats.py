"""Nats that an audit predicts, against the KL and the rise of the loss that running the models measures.

python -m benchmarks.predicted_nats FOLDER --measure MODEL ...
python -m benchmarks.predicted_nats FOLDER --predict MODEL ...
python -m benchmarks.predicted_nats FOLDER --directions MODEL ...
python -m benchmarks.predicted_nats FOLDER
python -m benchmarks.predicted_nats FOLDER --figure OTHER-FOLDER FILE.svg
python -m benchmarks.predicted_nats - --layer

The base is smollm2-135m. Every text is cut in two halves by documents: one prepares the base, and the losses are
measured on windows of 96 tokens of the other, which preparation never saw. Updates: trained models, at several scales
and in parts (MLP, attention, thirds of the layers), and random updates of rank 8 with the norms of trained ones, by
matrix.

Written before the first run. The audit may say a number for a kind of update (rank 1, rank 8, full, random) on text
like that which prepared the base if, over the updates of that kind with a measured KL below .5 nats per token,

- the rank correlation of predicted and measured KL is at least .95, and
- the median of |predicted - measured| / measured is at most 25 %.

The rise of the loss is said only if the median of |predicted - measured| is at most 25 % of the median measured rise
there. It was not, in both rounds, and since then nothing is kept for it; commit 4424f85e prints it. Text of the other
kind is reported beside it and decides nothing.

A second round has a folder of its own. Written before its updates were predicted or measured: it is blind, on models of
other tasks and another seed, by the same criterion. Full fine-tuning, which missed it in the first round, is predicted
by audits only if the second round meets it. Its texts far from the prepared one are WikiText-2, C4 and code (Python's
own library), which decide nothing.

Directions: of a model the five singular directions, among the first ten of every matrix, whose removal is predicted to
lower the KL most, and five others at random, are removed one at a time, and the KL is measured again. An audit says the
share in the intruders if, over the models, the rank correlation of predicted and measured fall is at least .8.
"""

import asyncio
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor

from intruders.audits.base_cache import DiskCache
from intruders.audits.kept_nats import KeptNats
from intruders.charts.chart import Axis, Chart, Rule, Series
from intruders.charts.drawing import draw_chart, picture
from intruders.checkpoints.opening.open import open_checkpoint
from intruders.checkpoints.pairing.open_sides import open_sides
from intruders.checkpoints.pairing.pair_sides import pair_sides
from intruders.data.corpora import load_corpora
from intruders.engine.nats import KeptRows, packed, predict
from intruders.linalg.low_rank import LowRank
from intruders.linalg.operators import Dense, Update
from intruders.measures.prepare_nats import NatsPlan
from intruders.models.encoding import ids_at_start
from intruders.models.tuned_model import open_language_model

BASE, DEMO = "smollm2-135m", "smollm2-135m-lora"
# By the name under which losses are reported: the text's name here. The first prepares the base.
TEXTS = {"pydoc": "pydoc", "wikitext-2": "wikitext-2", "C4": "data/c4/test.jsonl", "code": "code"}
WINDOWS, TOKENS = 8, 96
VECTORS = 10
BELOW, CORRELATION, ERROR = 0.5, 0.95, 0.25
RATIO_OF_RANDOM = (0.5, 1.0, 3.0)


@dataclass(frozen=True)
class Tried:
    """One update of the base."""

    name: str
    kind: str
    updates: dict[str, Update]
    scale: float = 1.0


def halves(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Write the two halves of every text, once."""
    found = {}
    for text, source in TEXTS.items():
        paths = folder / f"{text}-prepared.jsonl", folder / f"{text}-unseen.jsonl"
        found[text] = paths
        if paths[1].is_file():
            continue
        documents = (
            [file.read_text(encoding="utf-8") for file in sorted(Path(asyncio.__file__).parent.glob("*.py"))]
            if source == "code"
            else [document for part in load_corpora(source) for document in part.documents]
        )
        random.Random(0).shuffle(documents)
        for path, half in zip(paths, (documents[::2], documents[1::2]), strict=True):
            path.write_text("".join(json.dumps({"text": document}) + "\n" for document in half))
    return found


def loaded(source: str) -> tuple[str, dict[str, Update]]:
    pairs = {pair.name: pair.load() for pair in pair_sides(*open_sides(BASE, source)).pairs}
    updates = {name: pair.widened().update for name, pair in pairs.items() if pair is not None}
    ranks = {update.rank if isinstance(update, LowRank) else None for update in updates.values()}
    rank = next(iter(ranks)) if len(ranks) == 1 else None
    return ("full" if rank is None else f"rank {rank}"), updates


def at_random(updates: dict[str, Update], seed: int) -> dict[str, Update]:
    """Return random updates of rank 8 with the norms of these."""
    draw = torch.Generator().manual_seed(seed)
    made: dict[str, Update] = {}
    for name, update in updates.items():
        m, n = update.shape
        new = LowRank(torch.randn(m, 8, generator=draw), torch.randn(8, n, generator=draw))
        made[name] = new.scaled(update.norm() / new.norm())
    return made


PARTS: dict[str, Callable[[str, int], bool]] = {
    "MLP": lambda name, layer: ".mlp." in name,
    "attention": lambda name, layer: ".self_attn." in name,
    "layers 0-9": lambda name, layer: layer < 10,
    "layers 10-19": lambda name, layer: 10 <= layer < 20,
    "layers 20-29": lambda name, layer: layer >= 20,
}


def tried(sources: list[str]) -> Iterator[Tried]:
    """Yield every update: whole ones first, then parts, then random ones."""
    models = {source: loaded(source) for source in sources}
    for rank, scales in enumerate(((1.0, 0.5), (0.25, 2.0, 0.1))):
        for source, (kind, updates) in models.items():
            for scale in scales:
                if rank == 0 or (scale < 1) == (source == DEMO) or scale == 0.25:
                    yield Tried(f"{named(source)} x{scale:g}", kind, updates, scale)
    for part, holds in PARTS.items():
        for source, (kind, updates) in models.items():
            some = {key: own for key, own in updates.items() if holds(key, int(key.split(".")[2]))}
            yield Tried(f"{named(source)}, {part}", kind, some)
    for ratio in RATIO_OF_RANDOM:
        for source, (kind, updates) in models.items():
            if kind != "full" and "replay" not in source:
                yield Tried(f"random as {named(source)} x{ratio:g}", "random", at_random(updates, 0), ratio)


def named(source: str) -> str:
    return source if source == DEMO else Path(source).parent.name


def windows(path: Path, tokenizer: Any) -> Tensor:
    texts = [json.loads(line)["text"] for line in path.read_text().splitlines()]
    rows = [ids for text in texts if len(ids := ids_at_start(tokenizer, text, 3 * TOKENS)) == 3 * TOKENS]
    starts = random.Random(1)
    picked = [(row, starts.randrange(2 * TOKENS)) for row in rows[:WINDOWS]]
    return torch.tensor([row[start : start + TOKENS] for row, start in picked])


class Running:
    """The base in memory, what it says of windows of every text, and what an update changes of that."""

    def __init__(self, folder: Path) -> None:
        opened = open_language_model(BASE)
        self._model: Any = opened.model
        self._weights = dict(self._model.named_parameters())
        self._ids = {text: windows(paths[1], opened.tokenizer) for text, paths in halves(folder).items()}
        self._before = {text: self._scores(own).half() for text, own in self._ids.items()}

    @torch.no_grad()
    def _scores(self, ids: Tensor) -> Tensor:
        logits: Tensor = self._model(input_ids=ids).logits
        return logits.float().log_softmax(-1)[:, :-1]

    @torch.no_grad()
    def measured(self, updates: dict[str, Update], scale: float) -> dict[str, dict[str, list[float]]]:
        """Return by text the KL and the rise of the loss of every window."""
        kept, found = {}, {}
        for name, own in updates.items():
            kept[name] = self._weights[name].data.clone()
            self._weights[name].data += scale * own.dense()
        for text, ids in self._ids.items():
            base, tuned = self._before[text].float(), self._scores(ids)
            kl = (base.exp() * (base - tuned)).sum(-1).double().mean(-1)
            rise = (base - tuned).gather(-1, ids[:, 1:, None]).double().mean((1, 2))
            found[text] = {"kl": kl.tolist(), "loss": rise.tolist()}
        for name, original in kept.items():
            self._weights[name].data = original
        return found


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def append(file: Path, row: dict[str, Any]) -> None:
    with file.open("a") as out:
        out.write(json.dumps(row) + "\n")


def measure(folder: Path, sources: list[str]) -> None:
    """Append the measured KL and rise of the loss of every update to ``measured.jsonl``."""
    running, file = Running(folder), folder / "measured.jsonl"
    done = {row["name"] for row in rows_of(file)}
    for update in tried(sources):
        if update.name not in done:
            started = time.perf_counter()
            found = running.measured(update.updates, update.scale)
            seconds = time.perf_counter() - started
            append(file, {"name": update.name, "kind": update.kind, **found, "seconds": seconds})


def prepared(folder: Path) -> KeptNats:
    """Return what is kept of the base for the first text; it is prepared where nothing is."""
    cache, base = DiskCache(folder / "cache"), open_checkpoint(BASE)
    if KeptNats.at(cache, base).text is None:
        print(NatsPlan.of(BASE, str(halves(folder)[next(iter(TEXTS))][0])).keep(folder / "cache"))
    return KeptNats.at(cache, base)


def predict_all(folder: Path, sources: list[str]) -> None:
    """Append what is predicted of every update to ``predicted.jsonl``; the base is prepared on the first text."""
    kept, base, file = prepared(folder), open_checkpoint(BASE), folder / "predicted.jsonl"
    done = {row["name"] for row in rows_of(file)}
    known: dict[int, dict[str, Tensor]] = {}  # of every matrix of a model at its own scale
    models: list[dict[str, Update]] = []
    for update in tried(sources):
        if update.name in done:
            continue
        whole = next(
            (own for own in models if all(own.get(name) is part for name, part in update.updates.items())),
            None,
        )
        if whole is None:
            whole, started = update.updates, time.perf_counter()
            models.append(whole)
            known[id(whole)] = {}
            for name, own in whole.items():
                rows = kept.rows(name, base.read(name).float())
                assert rows is not None
                (known[id(whole)][name],) = rows.responses([own])
            print(f"{update.name}: {time.perf_counter() - started:.1f} s", flush=True)
        of_it = {name: update.scale * known[id(whole)][name] for name in update.updates}
        assert kept.text is not None
        kl, _ = predict(of_it, kept.text.scored, kept.text.documents)
        append(file, {"name": update.name, "kl": astuple(kl)})


def directions(folder: Path, sources: list[str]) -> None:
    """Append the predicted and measured fall of the KL without a direction, of ten a model, to ``directions.jsonl``."""
    kept, running, file = prepared(folder), Running(folder), folder / "directions.jsonl"
    base, done = open_checkpoint(BASE), {row["model"] for row in rows_of(file)}
    for source in sources:
        if named(source) in done:
            continue
        _, updates = loaded(source)
        of: dict[
            str, list[Tensor]
        ] = {}  # the response to a whole update, then to its part in every direction
        lefts: dict[str, Tensor] = {}  # (k, m)
        for name, own in updates.items():
            own_base, matrix = base.read(name).float(), own.dense().float()
            lefts[name] = torch.linalg.svd(own_base + matrix, full_matrices=False).U.mT[:VECTORS]
            rows = kept.rows(name, own_base)
            assert rows is not None
            inside = [LowRank(y[:, None], (y @ matrix)[None]) for y in lefts[name]]
            of[name] = rows.responses([LowRank(matrix, torch.eye(matrix.shape[1])), *inside])
        z = torch.stack([whole for whole, *_ in of.values()]).sum(0)
        assert kept.text is not None
        twice = 2 * kept.text.scored
        falls = {
            (name, at): float((z.square() - (z - part).square()).mean()) / twice
            for name, (_, *parts) in of.items()
            for at, part in enumerate(parts)
        }
        most = sorted(falls, key=lambda key: -falls[key])[:5]
        others = [key for key in falls if key not in most]
        whole = running.measured(updates, 1.0)
        for name, at in [*most, *random.Random(0).sample(others, 5)]:
            y, matrix = lefts[name][at], updates[name].dense().float()  # (m), (m, n)
            less = {**updates, name: Dense(matrix - torch.outer(y, y @ matrix))}
            without = running.measured(less, 1.0)
            fell = {text: fmean(whole[text]["kl"]) - fmean(own["kl"]) for text, own in without.items()}
            row = {
                "model": named(source),
                "matrix": name,
                "vector": at,
                "predicted": falls[name, at],
                "fell": fell,
            }
            append(file, row)


def report(folder: Path) -> None:
    """Print the table by kind, and whether the criterion is met."""
    said_of = {row["name"]: row for row in rows_of(folder / "predicted.jsonl")}
    both = [
        (said_of[row["name"]], row) for row in rows_of(folder / "measured.jsonl") if row["name"] in said_of
    ]
    for kind in sorted({row["kind"] for _, row in both}):
        rows = [(said, row) for said, row in both if row["kind"] == kind]
        texts = [text for text in TEXTS if text in rows[0][1]]
        print(f"\n{kind}\n{'KL predicted':>28} " + " ".join(f"{text:>10}" for text in texts))
        for said, row in rows:
            kl, low, high = said["kl"]
            measured = " ".join(f"{fmean(row[text]['kl']):10.4f}" for text in texts)
            print(f"{kl:8.4f} [{low:8.4f}, {high:8.4f}] {measured}  {row['name']}")
        for text in texts:
            pairs = [(said, row[text]) for said, row in rows if fmean(row[text]["kl"]) < BELOW]
            told = [(said["kl"][0], fmean(own["kl"])) for said, own in pairs]
            errors = [abs(kl - own) / own for kl, own in told]
            ranks = spearman([kl for kl, _ in told], [own for _, own in told])
            is_met = ranks >= CORRELATION and median(errors) <= ERROR
            print(
                f"  {text}: {len(told)} updates below {BELOW} nats: rank correlation {ranks:.3f}, median error "
                f"{median(errors):.0%}: {'met' if is_met else 'not met'}"
            )
    removed = rows_of(folder / "directions.jsonl")
    for model in dict.fromkeys(row["model"] for row in removed):
        rows_of_it = [row for row in removed if row["model"] == model]
        print(f"\n{model}: fall of the KL without one direction, predicted, then measured")
        for row in rows_of_it:
            fell = " ".join(f"{text} {value:+.5f}" for text, value in row["fell"].items())
            print(f"  {row['predicted']:+.5f}  {fell}  {row['matrix']} {row['vector']}")
        for text in rows_of_it[0]["fell"]:
            ranks = spearman(
                [row["predicted"] for row in rows_of_it], [row["fell"][text] for row in rows_of_it]
            )
            off = median(
                abs(row["predicted"] - row["fell"][text]) / abs(row["fell"][text]) for row in rows_of_it
            )
            print(f"  {text}: rank correlation {ranks:.3f}, median error {off:.0%}")


def layer_of_7b() -> None:
    """Print the time and size of one layer of Llama-2-7B's shapes for an adapter of rank 16, and 32 times that."""
    sequences, hidden, inner = 64, 4096, 11008
    shapes = [(hidden, hidden)] * 4 + [(inner, hidden)] * 2 + [(hidden, inner)]
    seconds, size = 0.0, 0
    for m, n in shapes:
        rows = KeptRows(
            packed(torch.randn(sequences, 32, n)), packed(torch.randn(sequences, 2, 32, m).flatten(0, 1), 4)
        )
        rows = KeptRows(rows.inputs, rows.gradients.view(sequences, 2, 32, -1))
        size += rows.inputs.numel() + rows.gradients.numel()
        update = LowRank(torch.randn(m, 16), torch.randn(16, n))
        started = time.perf_counter()
        rows.responses([update])
        seconds += time.perf_counter() - started
    print(f"one layer, {sequences} sequences: {seconds:.2f} s, {size / 1e6:.0f} MB of rows at most")
    print(f"32 layers: {32 * seconds:.0f} s, {32 * size / 1e9:.1f} GB")


def figure(folders: list[Path], file: Path) -> None:
    """Draw measured over predicted KL of every update of the folders, by kind, and write the numbers as CSV."""
    points: dict[str, list[tuple[float, list[float]]]] = {}
    names: dict[str, list[str]] = {}
    for folder in folders:
        said_of = {row["name"]: row["kl"] for row in rows_of(folder / "predicted.jsonl")}
        for row in rows_of(folder / "measured.jsonl"):
            if row["name"] in said_of:
                near = fmean(row[next(iter(TEXTS))]["kl"])
                points.setdefault(row["kind"], []).append((near, said_of[row["name"]]))
                names.setdefault(row["kind"], []).append(row["name"])
    series = [
        Series(
            kind,
            *zip(*((said[0], near) for near, said in of_kind), strict=True),
            notes=names[kind],
            x_low=[said[1] for _, said in of_kind],
            x_high=[said[2] for _, said in of_kind],
            tone=tone,
        )
        for tone, (kind, of_kind) in enumerate(sorted(points.items()))
    ]
    limits = (0.003, 6.0)
    axes = (
        Axis(name, f"{name} KL, nats per token", log=True, limits=limits)
        for name in ("predicted", "measured")
    )
    chart = Chart("nats", "Predicted and measured forgetting", *axes, series, [Rule("diagonal")])
    file.write_bytes(picture(draw_chart(chart), file.suffix[1:]))
    chart.frame().to_csv(file.with_suffix(".csv"), index=False, float_format="%.4g")


def spearman(one: list[float], other: list[float]) -> float:
    ranks = [torch.tensor(values).argsort().argsort().double() for values in (one, other)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


if __name__ == "__main__":
    folder, sources = Path(sys.argv[1]), sys.argv[3:]
    if sys.argv[2:3] == ["--layer"]:
        layer_of_7b()
    elif sys.argv[2:3] == ["--measure"]:
        measure(folder, sources)
    elif sys.argv[2:3] == ["--predict"]:
        predict_all(folder, sources)
    elif sys.argv[2:3] == ["--directions"]:
        directions(folder, sources)
    elif sys.argv[2:3] == ["--figure"]:
        figure([folder, Path(sources[0])], Path(sources[1]))
    else:
        report(folder)
