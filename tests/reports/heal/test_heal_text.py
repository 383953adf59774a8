"""What is said of a healing, from a record with task losses by hand."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from intruders.experiments.healing import Healing
from intruders.reports.heal.heal_text import check_command, dose_line, print_healing, rows, verdict

RECORD = Path(__file__).parents[2] / "fixtures" / "schema-1" / "heal.json"


def healing_with(task_losses: dict[str, float]) -> Healing:
    """The record in the fixtures, with a share healed and other losses on its task."""
    document: dict[str, Any] = json.loads(RECORD.read_text())
    for point in document["healing"]["points"]:
        for measure in point["corpora"].values():
            measure["healed"] = {"estimate": 0.8, "low": 0.7, "high": 0.9, "n": 3, "p": None}
        if point["name"] in task_losses:
            for measure in point["tasks"].values():
                measure["loss"]["estimate"] = task_losses[point["name"]]
    return Healing.from_document(document)


@pytest.mark.parametrize(
    ("interpolation", "sentence", "label"),
    [
        (0.3, "interpolation at that task loss (dose", "interpolation, same task loss"),
        (
            0.5,
            "interpolation at the tuned model's task loss, since none gets so low (dose",
            "interpolation, tuned model's task loss",
        ),
    ],
)
def test_it_says_at_which_task_loss_interpolation_is(interpolation: float, sentence: str, label: str) -> None:
    healing = healing_with({"tuned": 0.5, "healed": 0.4, "interpolation": interpolation})
    assert verdict(healing)[1].startswith(sentence)
    assert any(name.startswith(label) for name, _ in rows(healing))


def test_where_the_start_is_kept_it_says_that_this_is_interpolation() -> None:
    learned = healing_with({"tuned": 0.5, "healed": 0.4, "interpolation": 0.4})
    doses = dict.fromkeys(learned.doses, (0.375,))
    healing = dataclasses.replace(learned, step=0, start=0.375, doses=doses)
    assert verdict(healing)[1:] == [
        "that is interpolation with the dose 0.375: no step of the learning was better on the half that chooses"
    ]
    assert dose_line(healing) == "4 doses, all 0.38 (1 is the tuned model, 0 the base)"


def test_the_command_that_measures_it_again_takes_the_same_text() -> None:
    healing = Healing.load(RECORD)
    same = "--loss-on models/text.jsonl --max-documents 6 --max-tokens 24"
    assert check_command(healing).endswith(f"{same} --dtype float32 --reported-half")
    settings = {**healing.settings, "seed": 3, "dtype": "4bit", "estimate": True}
    other = dataclasses.replace(healing, settings=settings)
    assert check_command(other).endswith(f"{same} --seed 3 --load-in 4bit --estimate --reported-half")


def test_the_command_is_one_line_in_a_narrow_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    healing = dataclasses.replace(Healing.load(RECORD), out="healed")
    print_healing(healing, Console(width=40))
    assert f"  {check_command(healing)}\n" in capsys.readouterr().out


def test_names_that_steer_a_terminal_do_not(capsys: pytest.CaptureFixture[str]) -> None:
    """A corpus and a task in lines and tables, a note, and the folder in the command."""
    healing = Healing.load(RECORD)
    document = json.dumps(healing.to_document())
    for name in (healing.corpus, healing.task):
        document = document.replace(json.dumps(name), json.dumps(f"{name}\x1b[31m\u202e"))
    renamed = dataclasses.replace(
        Healing.from_document(json.loads(document)), out="healed\u202e", notes=["of \x1b[31m red"]
    )
    assert renamed.task.endswith("\u202e")
    print_healing(renamed, Console(width=200))
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "note: of \N{REPLACEMENT CHARACTER}[31m red\n" in text
