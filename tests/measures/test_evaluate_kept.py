"""What an interrupted evaluation kept is found by what was measured: not by names, and by all of a conversation."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import intruders
from intruders.errors import ResultFileError
from intruders.measures import evaluate as evaluating
from intruders.measures.evaluation import Evaluation, check_evaluation_folder
from intruders.measures.task_score import TaskScore
from tests.tiny import save_llama


def _killed(*given: object) -> None:
    raise KeyboardInterrupt


def test_a_corpus_of_another_spelling_and_two_of_equal_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_llama(tmp_path / "base")
    rows = "".join(json.dumps({"text": f"document {i} about {i * 7}"}) + "\n" for i in range(4))
    for name in ("docs.jsonl", "copy.jsonl"):
        (tmp_path / name).write_text(rows)

    def measured(*names: str, out: str | None = "out") -> list[tuple[str, float]]:
        losses = intruders.LossSettings(loss_on=names, max_tokens=32)
        return [
            (loss.name, loss.loss.estimate)
            for loss in intruders.evaluate("base", losses=losses, out=out).losses
        ]

    with monkeypatch.context() as patched:
        patched.setattr(Evaluation, "save", _killed)
        with pytest.raises(KeyboardInterrupt):
            measured("docs.jsonl", "copy.jsonl")
    names = ("./docs.jsonl", str(tmp_path / "docs.jsonl"), "copy.jsonl")
    fresh = measured(*names, out=None)
    monkeypatch.setattr(evaluating, "losses_by_corpus", _killed)  # nothing is read again
    assert measured(*names) == fresh
    assert [name for name, _ in fresh] == list(names)


def test_a_score_is_of_every_role_and_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that is scored is the same in all of these; what the model reads before it is not."""
    save_llama(tmp_path / "base")
    opened = SimpleNamespace(notes=(), is_masked=False)
    monkeypatch.setattr(evaluating, "open_for_task", lambda *given: (opened, []))
    monkeypatch.setattr(Evaluation, "save", _killed)
    scored: list[str] = []

    def score(model: Any, task: Any, *, split: str, **more: Any) -> TaskScore:
        scored.append(task.name)
        return TaskScore(task.name, split, [True] * len(task.split(split)))

    monkeypatch.setattr(evaluating, "score_task", score)

    def calls(columns: str, row: dict[str, Any]) -> int:
        (tmp_path / "rows.jsonl").write_text(f"{json.dumps(row)}\n" * 20)
        scored.clear()
        chosen = intruders.ScoreSettings(tasks=(f"{tmp_path / 'rows.jsonl'}?{columns}",))
        with pytest.raises(KeyboardInterrupt):
            intruders.evaluate(str(tmp_path / "base"), scores=chosen, out=tmp_path / "out")
        return len(scored)

    def talk(*messages: str) -> list[dict[str, str]]:
        return [dict(zip(("role", "content"), message.split(": "), strict=True)) for message in messages]

    question, answer = "user: 2+2?", "assistant: 4"
    for role in ("user", "system"):
        row = {"messages": talk(f"{role}: be brief", question, answer)}
        assert [calls("messages=messages", row) for _ in range(2)] == [1, 0]
    for first in ("assistant: let me think", "assistant: easy"):
        row = {"p": talk(question), "c": talk(first, "user: well?", answer)}
        assert [calls("prompt=p&completion=c", row) for _ in range(2)] == [1, 0]
    assert calls("prompt=p&completion=c", {"p": "2+2?", "c": "4"}) == 1


@pytest.mark.parametrize("name", ["documents.parquet", "examples.parquet", "evaluation.json"])
def test_an_evaluation_that_is_replaced_is_read_as_one_or_not_at_all(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before any of its files; the folder is then one that the same command resumes."""

    def evaluation(right: bool) -> intruders.Evaluation:
        scores = [TaskScore("sums", "validation", [right] * 4)]
        return intruders.Evaluation("model", None, [], scores, [])

    evaluation(True).save(tmp_path)
    replace = os.replace

    def killed(part: Path, target: Path) -> None:
        if target.name == name:
            raise KeyboardInterrupt
        replace(part, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            evaluation(False).save(tmp_path)
    with pytest.raises(ResultFileError, match="is not the folder of an evaluation"):
        intruders.Evaluation.load(tmp_path)
    check_evaluation_folder(tmp_path, force=False)
    evaluation(False).save(tmp_path)
    assert intruders.Evaluation.load(tmp_path).scores[0].right == [False] * 4
