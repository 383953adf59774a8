"""Which files of local copies tasks and texts are read from."""

from __future__ import annotations

from pathlib import Path

import pytest

from intruders.data.corpora import files_of_copies


def test_the_files_that_are_read_are_told_by_the_name_of_the_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in (
        "sst2/train.tsv",
        "sst2/dev.tsv",
        "sst2/notes.md",
        "wikitext2/test.txt",
        "c4/train.jsonl",
        "rte/x",
    ):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("x")
    monkeypatch.setenv("INTRUDERS_DATA", str(tmp_path))
    tasks = ["sst2", "word-problems", "agnews", "rte", "rows.tsv?text=a&label=b"]  # rte has no train file
    texts = ["pydoc", "wikitext-2@0.5+c4@0.5", "roberta-pretraining", "hub:owner/name"]
    assert files_of_copies(tasks, texts) == {
        "sst2 in INTRUDERS_DATA": [tmp_path / "sst2" / "train.tsv", tmp_path / "sst2" / "dev.tsv"],
        "wikitext-2 in INTRUDERS_DATA": [tmp_path / "wikitext2" / "test.txt"],
        "c4 in INTRUDERS_DATA": [tmp_path / "c4" / "train.jsonl"],
    }
    monkeypatch.setenv("INTRUDERS_DATA", str(tmp_path / "none"))
    assert files_of_copies(tasks, texts) == {}
    monkeypatch.delenv("INTRUDERS_DATA")
    assert files_of_copies(tasks, texts) == {}
