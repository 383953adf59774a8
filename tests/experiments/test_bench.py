"""What users have kept is found again, and what is measured on a task that has no right answers."""

from __future__ import annotations

from pathlib import Path

from intruders.data.columns import Columns
from intruders.data.load_task import load_task
from intruders.experiments.bench import Measuring, kept_outcomes, task_outcome
from intruders.experiments.question import Question
from intruders.measures.measure_settings import LossSettings, ScoreSettings
from intruders.models.tuned_model import open_for_task
from tests.json_lines import write_rows
from tests.tiny import save_llama


def test_without_a_folder_nothing_is_read(tmp_path: Path) -> None:
    question = Question.about(*(str(save_llama(tmp_path / name)) for name in ("base", "tuned")))
    for name in ("base", "tuned"):
        (tmp_path / name / "model.safetensors").unlink()
    kept = kept_outcomes(None, question, Measuring(LossSettings(), {}, 0), ScoreSettings())
    assert kept.get({"remedy": "intruders"}) is None


def test_a_task_without_right_answers_has_losses_and_no_answers(tmp_path: Path) -> None:
    base = save_llama(tmp_path / "base")
    rows = [{"prompt": f"{number} + 1 =", "completion": "57"} for number in range(40)]
    write_rows(tmp_path / "rows.jsonl", rows)
    for score, has_answers in (("none", False), ("exact", True)):
        task = load_task(str(tmp_path / "rows.jsonl"), Columns(score=score, max_new_tokens=2), 0)
        opened, labels = open_for_task(str(base), task, str(base))
        found = task_outcome(opened, labels, task, task.validation[:2], answers=True)
        assert len(found.losses.sums) == 2
        assert (found.right is not None) == has_answers
