"""Heals models that were trained for other studies: are weights, and the base's own text, the defaults of heal?

INTRUDERS_DATA=data python -m benchmarks.what_heals healed rank1=smollm2-135m-lora@word-problems ...

Every model is healed as in research/examples/same-text.yaml: its weights, 30 steps in bfloat16 on 32 documents of C4,
64 examples that choose; 200 test examples, 32 other documents of C4 and 32 of WikiText-2 are reported. Rivals are
doses, and the weights learned on the base's own samples instead of C4. A task that is a folder has train.jsonl and
others.

The criterion, written before any of these healings; the first model of same-text counts with them. Weights are the
default of heal if their mean loss on WikiText-2 is at most 0.02 nats above the doses', and their mean accuracy at most
one point below. The base's own text is the default text if on every model it gives back 85 % on WikiText-2, and its
mean accuracy is at most one point below that of the weights learned on C4.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import intruders
from benchmarks.same_text import CHOSEN, REPORTED, SETTINGS, report
from intruders.experiments.healing import Healing

RIVALS = ("doses", "self")


def main(folder: Path, models: dict[str, str]) -> None:
    healings = {}
    for name, given in models.items():
        model, _, task = given.partition("@")
        out, columns = folder / name, None
        if Path(task).is_dir():
            columns = intruders.Columns(
                validation_file=f"{task}/validation.jsonl", test_file=f"{task}/test.jsonl", max_new_tokens=8
            )
            task = f"{task}/train.jsonl"
        if not (out / "heal.json").is_file():
            out.parent.mkdir(exist_ok=True)
            intruders.heal(
                "smollm2-135m",
                model,
                task=task,
                columns=columns,
                loss_on=[CHOSEN, REPORTED],
                settings=replace(SETTINGS, rivals=RIVALS, report_examples=200),
                loading=intruders.Loading(dtype="bfloat16"),
                out=out,
                progress=lambda what, done, n: print(what, done, n, flush=True) if done % 5 == 0 else None,
            )
        healings[name] = Healing.load(out)
    report(healings, RIVALS)


if __name__ == "__main__":
    main(Path(sys.argv[1]), dict(model.split("=", 1) for model in sys.argv[2:]))
