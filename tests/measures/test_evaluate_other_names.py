"""What an interrupted evaluation kept is found by what was measured, not by what it was called."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import intruders
from intruders.measures import evaluate as under_test
from intruders.measures import measured_model
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

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(under_test.Evaluation, "save", _killed)
        measured("docs.jsonl", "copy.jsonl")
    names = ("./docs.jsonl", str(tmp_path / "docs.jsonl"), "copy.jsonl")
    fresh = measured(*names, out=None)
    monkeypatch.setattr(measured_model, "losses_by_corpus", _killed)  # nothing is read again
    assert measured(*names) == fresh
    assert [name for name, _ in fresh] == list(names)
