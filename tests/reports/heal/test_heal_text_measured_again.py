"""The command that a healing prints measures the same text and the same examples again."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

import intruders
from intruders.experiments.experiment_settings import HealSettings
from intruders.reports.heal.heal_text import check_command
from intruders.training.finetune import finetune
from tests.commands import in_this_process
from tests.json_lines import write_rows
from tests.tiny import save_llama, short_texts
from tests.training.tiny_runs import config_of


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
    done = in_this_process(*arguments, "--out", tmp_path / "again")
    assert done.returncode == 0, done.stderr
    measured = intruders.Evaluation.load(tmp_path / "again")
    assert measured.scores[0].accuracy == accuracy
    loss = measured.losses[0].loss
    assert loss.estimate == pytest.approx(point.corpora[str(text)].loss.estimate, abs=1e-5)
