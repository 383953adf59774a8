"""Two data files of one name, in two folders, in one evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest

import intruders
from intruders.errors import CheckpointError
from tests.json_lines import write_rows
from tests.tiny import save_llama


def test_each_task_gets_its_own_examples_back(tmp_path: Path) -> None:
    save_llama(tmp_path / "base")
    tasks = []
    for folder, count in (("a", 3), ("b", 5)):
        file = tmp_path / folder / "test.jsonl"
        file.parent.mkdir()
        rows = [{"prompt": f"{folder}{number}", "completion": str(number)} for number in range(count + 3)]
        write_rows(file, rows[count:])
        write_rows(file.parent / "scored.jsonl", rows[:count])
        tasks.append(f"{file}?prompt=prompt&completion=completion&test={file.parent / 'scored.jsonl'}")
    scores = intruders.ScoreSettings(tasks=tuple(tasks), max_new_tokens=1)
    made = intruders.evaluate(str(tmp_path / "base"), scores=scores, out=tmp_path / "out")
    read = intruders.Evaluation.load(tmp_path / "out")
    assert [score.task for score in read.scores] == ["test.jsonl", "test.jsonl"]
    assert [len(score.right) for score in read.scores] == [3, 5]
    assert [score.right for score in read.scores] == [score.right for score in made.scores]
    assert [score.accuracy for score in read.scores] == [score.accuracy for score in made.scores]


def test_a_folder_of_checkpoints_is_answered_with_their_names(tmp_path: Path) -> None:
    for number in (20, 100):
        (tmp_path / "run" / f"checkpoint-{number}").mkdir(parents=True)
        (tmp_path / "run" / f"checkpoint-{number}" / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="'checkpoint-20', 'checkpoint-100'; pass one of these"):
        intruders.evaluate(str(tmp_path / "run"), losses=intruders.LossSettings(loss_on=("pydoc",)))
