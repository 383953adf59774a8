"""What is said of a healing, from a record with task losses by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from intruders.experiments.heal.healing import Healing
from intruders.reports.heal.heal_text import rows, verdict

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
