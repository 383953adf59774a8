"""What is said of a healing, from a record with task losses by hand."""

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import intruders
from intruders.experiments.experiment_settings import HealSettings
from intruders.experiments.healing import Healing
from intruders.reports.heal import check_command, dose_line, print_healing, rows, verdict
from intruders.reports.terminal import Page
from intruders.training.finetune import finetune
from tests.commands import printed
from tests.json_lines import write_rows
from tests.tiny import save_llama, short_texts
from tests.training.tiny_runs import config_of

RECORD = Path(__file__).parents[1] / "fixtures" / "schema-1" / "heal.json"


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
        (0.3, "that task loss (dose", "same task loss"),
        (0.5, "the tuned model's task loss, since none gets so low (dose", "tuned model's task loss"),
    ],
)
def test_it_says_at_which_task_loss_interpolation_is(interpolation: float, sentence: str, label: str) -> None:
    healing = healing_with({"tuned": 0.5, "healed": 0.4, "interpolation": interpolation})
    assert verdict(healing)[1].startswith(f"interpolation at {sentence}")
    assert any(name.startswith(f"interpolation, {label}") for name, _ in rows(healing))


def test_where_the_start_is_kept_it_says_that_this_is_interpolation() -> None:
    learned = healing_with({"tuned": 0.5, "healed": 0.4, "interpolation": 0.4})
    doses = dict.fromkeys(learned.doses, (0.375,))
    healing = dataclasses.replace(learned, step=0, start=0.375, doses=doses)
    assert verdict(healing)[1:] == [
        "that is interpolation with the dose 0.375: no step of the learning was better on the half that chooses"
    ]
    assert dose_line(healing) == "4 doses, all 0.38 (1 is the tuned model, 0 the base)"
    learned = dataclasses.replace(healing, learn="weights", step=5)
    assert dose_line(learned) == "the weights of 4 matrices were learned"


def test_the_command_that_measures_it_again_takes_the_same_text() -> None:
    healing = Healing.load(RECORD)
    same = "--loss-on models/text.jsonl --max-documents 6 --max-tokens 24"
    assert check_command(healing).endswith(f"{same} --dtype float32 --reported-half")
    settings = {**healing.settings, "seed": 3, "dtype": "4bit", "estimate": True}
    other = dataclasses.replace(healing, settings=settings)
    assert check_command(other).endswith(f"{same} --seed 3 --load-in 4bit --estimate --reported-half")
    # What the base wrote is in no file, and this record names no task: nothing can be measured again.
    [text] = healing.healed_point.corpora.values()
    own = dataclasses.replace(healing.healed_point, corpora={"self": text})
    assert not check_command(dataclasses.replace(healing, points=[own]))


def test_what_is_printed_fits(capsys: pytest.CaptureFixture[str]) -> None:
    """The folder in the command, which stays one line, and a task whose name is long."""
    healing = dataclasses.replace(Healing.load(RECORD), out="healed")
    print_healing(healing, Page(Console(width=40)))
    assert f"  {check_command(healing)}\n" in capsys.readouterr().out
    text = RECORD.read_text().replace(
        json.dumps(healing.task), json.dumps("sums.jsonl?prompt=sum&completion=is")
    )
    print_healing(Healing.from_document(json.loads(text)), Page(Console(width=80)))
    assert "…" not in capsys.readouterr().out, "the name leaves room to those of the models"


def test_the_printed_command_gives_loss_and_accuracy_again(tmp_path: Path) -> None:
    """A file with columns of its own and no test split, whose validation rows are halved by a seed of their own."""
    llama = save_llama(tmp_path / "llama")
    text, rows = short_texts(tmp_path / "text.jsonl", 8), tmp_path / "rows.jsonl"
    sums = [{"q": f"{number}+{number + 1}=", "a": str((2 * number + 1) % 2)} for number in range(400)]
    odd = [{"q": f"{number}-{number // 3}=", "a": str(number * number // 7 % 2)} for number in range(300)]
    write_rows(rows, [*sums, *odd])
    columns = {"prompt": "q", "completion": "a", "max_new_tokens": 4}
    tuned = finetune(config_of(llama, tmp_path / "tuned", task=str(rows), steps=40, lr=2e-2, **columns)).path
    healing = intruders.heal(
        str(llama),
        str(tuned),
        task=str(rows),
        loss_on=str(text),
        out=tmp_path / "healed",
        columns=intruders.Columns(**columns),
        settings=HealSettings(steps=2, max_documents=6, max_tokens=24, max_examples=24, allow=1.0),
        audit=intruders.AuditSettings(k=3),
        data_seed=3,
    )
    point = healing.healed_point
    accuracy = point.tasks[str(rows)].accuracy
    assert accuracy is not None
    assert 0 < accuracy.estimate < 1  # or any examples would do
    command = check_command(healing)
    assert "completion=a" in command
    assert "--max-examples 24 --max-new-tokens 4 --data-seed 3 --reported-half" in command

    program, *arguments = shlex.split(command)
    assert program == "intruders"
    printed(*arguments, "--out", tmp_path / "again")
    measured = intruders.Evaluation.load(tmp_path / "again")
    assert measured.scores[0].accuracy == accuracy
    loss = measured.losses[0].loss
    assert loss.estimate == pytest.approx(point.corpora[str(text)].loss.estimate, abs=1e-5)
