"""`intruders sequence` as a person types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands import in_this_process
from tests.tiny import save_bert


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    save_bert(folder / "bert", with_head=False)
    for number, letters in enumerate(("az", "mq")):
        rows = [f"{letters[i % 2] * 4}\t{i % 2}" for i in range(40)]
        (folder / f"task{number}.tsv").write_text("text\tlabel\n" + "\n".join(rows) + "\n")
    return folder


def test_sequence_prints_and_keeps_the_accuracy_matrix(place: Path, tmp_path: Path) -> None:
    tasks = ",".join(f"{place / f'task{number}.tsv'}?text=text&label=label" for number in (0, 1))
    options = [
        "sequence", "--base", str(place / "bert"), "--tasks", tasks, "--method", "lora", "--rank", "2",
        "--lr", "1e-2", "--steps", "5", "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    done = in_this_process(*options)
    assert done.returncode == 0, done.stderr
    assert "after" in done.stdout
    assert "backward transfer" in done.stdout
    record = json.loads((tmp_path / "out" / "sequence.json").read_text())
    assert [len(row) for row in record["accuracies"]] == [1, 2]
    assert len(record["intruders"]) == 2
    again = in_this_process(*options)
    assert again.stdout == "already finished; nothing was trained\n" + done.stdout
    fewer = in_this_process(*[word.partition(",")[0] if word == tasks else word for word in options])
    assert fewer.returncode == 2
    assert "contains a sequence of other tasks" in fewer.stderr
    assert json.loads((tmp_path / "out" / "sequence.json").read_text()) == record


def test_an_error_is_one_line(place: Path, tmp_path: Path) -> None:
    done = in_this_process(
        "sequence", "--base", str(place / "bert"), "--tasks", "a,b", "--steps", "1", "--out", str(tmp_path / "out")
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "task 'a' is not known" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.parametrize("tasks", ["pydoc-topics-1,", ",", "pydoc-topics-1, ,pydoc-topics-2"])
def test_an_empty_name_among_the_tasks_is_told_as_that(tasks: str, tmp_path: Path) -> None:
    refused = in_this_process("sequence", "--base", "none", "--tasks", tasks, "--out", str(tmp_path / "out"))
    assert refused.returncode == 2
    assert refused.stderr == (
        f"error: --tasks '{tasks}' has an empty name between or beside its commas; expected names of tasks or data "
        "files, with a comma between two; remove the comma that is too many\n"
    )


def test_spaces_after_commas_are_no_part_of_a_name(tmp_path: Path) -> None:
    refused = in_this_process(
        "sequence", "--base", "none", "--tasks", "pydoc-topics-1, pydoc-topcs-2", "--steps", "1", "--out", str(tmp_path)
    )  # fmt: skip
    assert refused.stderr.startswith(
        "error: task 'pydoc-topcs-2' is not known; did you mean 'pydoc-topics-2'?"
    )
