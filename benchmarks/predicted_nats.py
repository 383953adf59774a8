"""Nats that an audit predicts, against the KL and the rise of the loss that running the models measures.

python -m benchmarks.predicted_nats FOLDER --measure [MODEL ...]
python -m benchmarks.predicted_nats FOLDER --predict [MODEL ...]
python -m benchmarks.predicted_nats FOLDER

The base is smollm2-135m. Every text is cut in two halves by documents: one prepares the base, and the losses are
measured on windows of 96 tokens of the other, which preparation never saw. Updates: trained models, at several scales
and in parts (MLP, attention, thirds of the layers), and random updates of rank 8 with the norms of trained ones, by
matrix.

Written before the first run. The audit may say a number for a kind of update (rank 1, rank 8, full, random) on text
like that which prepared the base if, over the updates of that kind with a measured KL below .5 nats per token,

- the rank correlation of predicted and measured KL is at least .95, and
- the median of |predicted - measured| / measured is at most 25 %.

The rise of the loss is said only if the median of |predicted - measured| is at most 25 % of the median measured rise
there. Text of the other kind is reported beside it and decides nothing.
"""

from __future__ import annotations

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
from intruders.checkpoints.opening.open import open_checkpoint
from intruders.checkpoints.pairing.open_sides import open_sides
from intruders.checkpoints.pairing.pair_sides import pair_sides
from intruders.data.corpora import load_corpora
from intruders.engine.nats import Responses, predict
from intruders.linalg.low_rank import LowRank
from intruders.linalg.operators import Update
from intruders.measures.prepare_nats import NatsPlan
from intruders.models.encoding import ids_at_start
from intruders.models.tuned_model import open_language_model

BASE, DEMO = "smollm2-135m", "smollm2-135m-lora"
TEXTS = ("pydoc", "wikitext-2")
WINDOWS, TOKENS = 8, 96
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
    for text in TEXTS:
        paths = folder / f"{text}-prepared.jsonl", folder / f"{text}-unseen.jsonl"
        found[text] = paths
        if paths[1].is_file():
            continue
        documents = [document for part in load_corpora(text) for document in part.documents]
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


@torch.no_grad()
def measure(folder: Path, sources: list[str]) -> None:
    """Append the measured KL and rise of the loss of every update to ``measured.jsonl``."""
    opened = open_language_model(BASE)
    model: Any = opened.model
    ids = {text: windows(paths[1], opened.tokenizer) for text, paths in halves(folder).items()}

    def scores(of: Tensor) -> Tensor:
        logits: Tensor = model(input_ids=of).logits
        return logits.float().log_softmax(-1)[:, :-1]

    before = {text: scores(own).half() for text, own in ids.items()}
    file = folder / "measured.jsonl"
    done = {json.loads(line)["name"] for line in file.read_text().splitlines()} if file.is_file() else set()
    weights = dict(model.named_parameters())
    for update in tried(sources):
        if update.name in done:
            continue
        started, kept = time.perf_counter(), {}
        for name, own in update.updates.items():
            kept[name] = weights[name].data.clone()
            weights[name].data += update.scale * own.dense()
        row: dict[str, Any] = {"name": update.name, "kind": update.kind}
        for text, own_ids in ids.items():
            base, tuned = before[text].float(), scores(own_ids)
            kl = (base.exp() * (base - tuned)).sum(-1).double().mean(-1)
            rise = (base - tuned).gather(-1, own_ids[:, 1:, None]).double().mean((1, 2))
            row[text] = {"kl": kl.tolist(), "loss": rise.tolist()}
        row["seconds"] = time.perf_counter() - started
        for name, original in kept.items():
            weights[name].data = original
        with file.open("a") as out:
            out.write(json.dumps(row) + "\n")


def predict_all(folder: Path, sources: list[str]) -> None:
    """Append what is predicted of every update to ``predicted.jsonl``; the base is prepared on the first text."""
    prepared = halves(folder)[TEXTS[0]][0]
    cache = DiskCache(folder / "cache")
    if KeptNats.at(cache) is None:
        print(NatsPlan.of(BASE, str(prepared)).keep(folder / "cache"))
    kept = KeptNats.at(cache)
    assert kept is not None
    base, file = open_checkpoint(BASE), folder / "predicted.jsonl"
    done = {json.loads(line)["name"] for line in file.read_text().splitlines()} if file.is_file() else set()
    known: dict[int, dict[str, Responses]] = {}  # of every matrix of a model at its own scale
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
                (known[id(whole)][name],) = rows.responses([own], [torch.empty(0, own.shape[-2])])
            print(f"{update.name}: {time.perf_counter() - started:.1f} s", flush=True)
        of_it = {
            name: Responses(update.scale * known[id(whole)][name].whole, known[id(whole)][name].parts)
            for name in update.updates
        }
        assert kept.text is not None
        found = predict(of_it, kept.text.scored, kept.text.documents)
        row = {"name": update.name, "kl": astuple(found.kl), "loss": astuple(found.loss)}
        with file.open("a") as out:
            out.write(json.dumps(row) + "\n")


def report(folder: Path) -> None:
    """Print the table by kind, and whether the criterion is met."""
    read = {
        name: {
            row["name"]: row for row in map(json.loads, (folder / f"{name}.jsonl").read_text().splitlines())
        }
        for name in ("measured", "predicted")
    }
    both = [
        (read["predicted"][name], row) for name, row in read["measured"].items() if name in read["predicted"]
    ]
    for kind in sorted({row["kind"] for _, row in both}):
        rows = [(said, row) for said, row in both if row["kind"] == kind]
        print(
            f"\n{kind}\n{'KL predicted':>28} {TEXTS[0]:>8} {TEXTS[1]:>11} {'loss':>10} {TEXTS[0]:>8} {TEXTS[1]:>11}"
        )
        for said, row in rows:
            kl, low, high = said["kl"]
            measured = [fmean(row[text][what]) for what in ("kl", "loss") for text in TEXTS]
            print(
                f"{kl:8.4f} [{low:8.4f}, {high:8.4f}] {measured[0]:8.4f} {measured[1]:11.4f}"
                f" {said['loss'][0]:+10.4f} {measured[2]:+8.4f} {measured[3]:+11.4f}  {row['name']}"
            )
        for text in TEXTS:
            pairs = [(said, row[text]) for said, row in rows if fmean(row[text]["kl"]) < BELOW]
            told = [(said["kl"][0], fmean(own["kl"])) for said, own in pairs]
            errors = [abs(kl - own) / own for kl, own in told]
            rises = [(said["loss"][0], fmean(own["loss"])) for said, own in pairs]
            off = median(abs(rise - own) for rise, own in rises) / abs(median(own for _, own in rises))
            ranks = spearman([kl for kl, _ in told], [own for _, own in told])
            is_met = ranks >= CORRELATION and median(errors) <= ERROR
            print(
                f"  {text}: {len(told)} updates below {BELOW} nats: rank correlation {ranks:.3f}, median error "
                f"{median(errors):.0%}: {'met' if is_met else 'not met'}; loss: {off:.0%} of the median rise"
            )


def spearman(one: list[float], other: list[float]) -> float:
    ranks = [torch.tensor(values).argsort().argsort().double() for values in (one, other)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


if __name__ == "__main__":
    folder, sources = Path(sys.argv[1]), [DEMO, *sys.argv[3:]]
    if sys.argv[2:3] == ["--measure"]:
        measure(folder, sources)
    elif sys.argv[2:3] == ["--predict"]:
        predict_all(folder, sources)
    else:
        report(folder)
