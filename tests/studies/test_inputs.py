"""The hashes by which a finished stage knows that what it was made of is still the same."""

import json
from pathlib import Path
from typing import Any

import pytest
import xxhash

from intruders.errors import SettingError
from intruders.studies.inputs import digests_of_inputs, inputs_of
from intruders.studies.runs import Run, expand
from intruders.studies.stages import stages_of
from intruders.studies.study_folder import RunRecord, StudyFolder
from intruders.studies.work import is_done
from tests.studies.tiny_study import parsed
from tests.tiny import write_files_of_a_model


def run_on(texts: list[str], **settings: Any) -> Run:
    experiment = {
        "base": "/no-model", "task": "word-problems", "steps": 2, "methods": [{"method": "full"}],
        "measure": {"loss_on": texts}, **settings,
    }  # fmt: skip
    experiment = {name: value for name, value in experiment.items() if value is not None}
    (run,) = expand(parsed({"name": "n", "experiments": {"e": experiment}}))
    return run


def finished(folder: StudyFolder, run: Run) -> None:
    """Write the records of a finished run and of its study, as this version does."""
    folder.path.mkdir()
    document = {"name": "n", "inputs": digests_of_inputs([run])}
    (folder.path / "study.json").write_text(json.dumps(document))
    record = RunRecord(folder.run(run.id))
    record.begin(run)
    for stage in stages_of(run):
        for name in stage.results:
            (record.folder / name).mkdir(parents=True, exist_ok=True)
        record.finish_stage(stage.name, stage.settings(run), 1.0, inputs=inputs_of(run))
    record.finish()


def require_unchanged(run: Run, folder: StudyFolder) -> None:
    assert is_done(run, folder.run(run.id))
    folder.require_same_inputs(digests_of_inputs([run]))


def require_told(run: Run, folder: StudyFolder, name: str) -> None:
    assert not is_done(run, folder.run(run.id))
    with pytest.raises(SettingError, match=f"'{name}' has changed since runs of the study"):
        folder.require_same_inputs(digests_of_inputs([run]))


@pytest.mark.parametrize(
    ("file", "named"), [("vocab.txt", "tokenizer of {base}"), ("model.safetensors", "{base}")]
)
def test_a_base_that_changes_between_two_calls_is_told(file: str, named: str, tmp_path: Path) -> None:
    """Runs of before and of after would stand in the same tables."""
    base = tmp_path / "base"
    base.mkdir()
    write_files_of_a_model(base)
    run, folder = run_on(["pydoc"], base=str(base)), StudyFolder(tmp_path / "out")
    (base / "vocab.txt").write_text("alpha beta")
    finished(folder, run)
    require_unchanged(run, folder)
    (base / file).write_text("beta alpha")
    require_told(run, folder, named.format(base=base))


@pytest.mark.parametrize(
    ("texts", "settings", "changed"),
    [
        (["a.txt"], {}, "a.txt"),
        (["a.txt@2"], {}, "a.txt"),
        (["texts/"], {}, "texts/deep/one.md"),
        (["pydoc@0.5+a.txt@0.2+texts@0.3"], {}, "a.txt"),
        (["pydoc@0.5+a.txt@0.2+texts@0.3"], {}, "texts/deep/one.md"),
        (["pydoc"], {"replay": "a.txt@0.25", "batch_size": 4}, "a.txt"),
        (["pydoc"], {"replay": "texts@0.25", "batch_size": 4}, "texts/deep/one.md"),
        (["pydoc"], {"loss_on": "a.txt", "audit_steps": 1}, "a.txt"),
        (["pydoc"], {"task": "rows.jsonl?prompt=p&completion=c"}, "rows.jsonl"),
        (["pydoc"], {"task": "rows.jsonl?prompt=p&completion=c&test=test.jsonl"}, "test.jsonl"),
    ],
)
def test_a_text_that_changes_between_two_calls_is_told(
    texts: list[str], settings: dict[str, Any], changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses on two texts would stand in the same tables."""
    monkeypatch.chdir(tmp_path)
    Path("texts/deep").mkdir(parents=True)
    for file in ("a.txt", "rows.jsonl", "test.jsonl", "texts/deep/one.md", "texts/notes.json"):
        Path(file).write_text("a text")
    run, folder = run_on(texts, **settings), StudyFolder(tmp_path / "out")
    finished(folder, run)
    Path("texts/notes.json").write_text("no text of the corpus")
    require_unchanged(run, folder)
    Path(changed).write_text("other")
    require_told(run, folder, changed.partition("/")[0])


@pytest.mark.parametrize(
    ("texts", "settings", "changed"),
    [
        (["wikitext-2"], {}, "wikitext2/test.txt"),
        (["pydoc@0.5+wikitext-2@0.5"], {}, "wikitext2/test.txt"),
        (["pydoc"], {"replay": "wikitext-2@0.25", "batch_size": 4}, "wikitext2/test.txt"),
        (["pydoc"], {"task": "sst2"}, "sst2/train.tsv"),
        (["pydoc"], {"task": "sst2"}, "sst2/dev.tsv"),
        (["pydoc"], {"kind": "sequence", "tasks": ["word-problems", "sst2"], "task": None}, "sst2/dev.tsv"),
    ],
)
def test_a_copy_of_a_public_set_that_changes_between_two_calls_is_told_wherever_it_is(
    texts: list[str], settings: dict[str, Any], changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = tmp_path / "copies"
    for file in ("wikitext2/test.txt", "wikitext2/train.txt", "sst2/train.tsv", "sst2/dev.tsv"):
        (copies / file).parent.mkdir(parents=True, exist_ok=True)
        (copies / file).write_text("good\t1\nbad\t0\n")
    monkeypatch.setenv("INTRUDERS_DATA", str(copies))
    run, folder = run_on(texts, **settings), StudyFolder(tmp_path / "out")
    finished(folder, run)
    monkeypatch.setenv("INTRUDERS_DATA", str(copies.rename(tmp_path / "moved")))
    (tmp_path / "moved" / "wikitext2" / "train.txt").write_text("not read where there is a test file")
    require_unchanged(run, folder)
    (tmp_path / "moved" / changed).write_text("good\t0\nbad\t1\n")
    name = {"wikitext2": "wikitext-2"}.get(changed.partition("/")[0], "sst2")
    require_told(run, folder, f"{name} in INTRUDERS_DATA")
    # On a machine that asks the hub there is nothing to compare with.
    monkeypatch.delenv("INTRUDERS_DATA")
    require_unchanged(run, folder)


def test_files_are_known_by_content_hub_sets_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INTRUDERS_DATA", raising=False)
    file = tmp_path / "a.txt"
    file.write_text("text")
    named = ["pydoc", "wikitext-2", "roberta-pretraining", "hub:owner/name?text", "pydoc@1+c4@2"]
    assert inputs_of(run_on(named)) == {}
    assert inputs_of(run_on([*named, str(file)])) == {f"data '{file}'": xxhash.xxh3_128(b"text").hexdigest()}
