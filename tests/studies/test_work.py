"""Runs in a store: put whole, fetched on another machine, gone on with there."""

import json
from pathlib import Path

import pytest

from intruders.errors import ResultFileError, SettingError, StoreError
from intruders.studies.results import load_results
from intruders.studies.run_study import run_study
from intruders.studies.runs import expand
from intruders.studies.work import Workplace
from tests.studies.tiny_study import BRIEF, FULL, LORA, contents, cut_off_at, parsed, stages_do, tiny_study
from tests.tiny import short_task


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A folder by the protocol of fsspec's own; to the study it is as far away as a bucket."""
    return f"local://{tmp_path}/store"


def on_machine(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine has another cache folder."""
    monkeypatch.setenv("INTRUDERS_CACHE", str(tmp_path / name))


def test_a_study_in_a_store_is_seen_from_another_machine_and_not_repeated(
    llama: Path, tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two runs, and one of every measure.
    document = tiny_study(llama, methods=[LORA])
    brief = tiny_study(llama, measure=BRIEF, methods=[FULL])
    document["experiments"]["brief"] = brief["experiments"]["matched"]
    study = parsed(document)
    on_machine("first", tmp_path, monkeypatch)
    first = run_study(study, url)
    assert (first.finished, first.failed) == (2, {})
    store = tmp_path / "store"
    for run in expand(study):
        assert (store / "runs" / run.id / "audit.json").is_file()
        assert json.loads((store / "runs" / run.id / "run.json").read_text())["status"] == "finished"
    assert load_results(store).runs["intruders"].iloc[0] > 0
    written = {file: file.stat().st_mtime_ns for file in (store / "runs").rglob("*") if file.is_file()}
    on_machine("second", tmp_path, monkeypatch)
    second = run_study(study, url, resume=True)
    assert (second.finished, second.failed) == (2, {})
    assert {file: file.stat().st_mtime_ns for file in written} == written, "nothing is done or put again"
    one, two = (load_results(outcome.folder) for outcome in (first, second))
    for name in ("runs", "matrices", "traces", "interventions"):
        assert getattr(one, name).equals(getattr(two, name)), name


def test_a_run_that_was_cut_off_goes_on_elsewhere_from_its_last_stage(
    llama: Path, tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = parsed(tiny_study(llama, methods=[LORA]))
    on_machine("first", tmp_path, monkeypatch)
    cut_off_at("evaluate", study, url, monkeypatch)
    (run,) = expand(study)
    there = tmp_path / "store" / "runs" / run.id
    assert sorted(json.loads((there / "run.json").read_text())["stages"]) == ["audit", "train"]
    on_machine("second", tmp_path, monkeypatch)
    stages_do(monkeypatch, lambda at: pytest.fail("the training is in the store"), "train")
    outcome = run_study(study, url)
    assert (outcome.finished, outcome.failed) == (1, {})
    assert len(list((tmp_path / "store" / "bases").iterdir())) == 1, "the base's losses are kept for others"


def test_a_measure_that_is_added_fetches_the_model_and_trains_nothing_again(
    llama: Path, tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tables need no weights, and another machine has fetched none; a new measure needs them."""
    document = tiny_study(llama, measure=BRIEF, methods=[{"rank": 1, "lr": 0.5}])
    on_machine("first", tmp_path, monkeypatch)
    run_study(parsed(document), url)
    on_machine("second", tmp_path, monkeypatch)
    run_study(parsed(document), url)
    stages_do(monkeypatch, lambda at: pytest.fail("the training is in the store"), "train")
    document["experiments"]["matched"]["measure"]["critical_scale"] = True
    outcome = run_study(parsed(document), url)
    assert outcome.failed == {}
    results = load_results(outcome.folder)
    assert results.runs["critical_scale"].notna().all()
    assert results.matrices["predicted_scale"].notna().all()
    # And one of other settings is made again.
    document["experiments"]["matched"]["measure"]["audit"]["k"] = 2
    outcome = run_study(parsed(document), url)
    assert list(load_results(outcome.folder).runs["k"]) == [2]


@pytest.mark.parametrize("is_here", [True, False])
def test_a_damaged_record_is_named(llama: Path, tmp_path: Path, url: str, is_here: bool) -> None:
    [run] = expand(parsed(tiny_study(llama, methods=[{"method": "full", "lr": 1e-3}])))
    place = Workplace.of(url)
    here, there = place.folder.run(run.id), tmp_path / "store" / "runs" / run.id
    for folder in (here, there):
        folder.mkdir(parents=True)
        (folder / "run.json").write_text('{"stages": {"audit": {}}}')
    damaged = here if is_here else there
    (damaged / "run.json").write_text('{"stages": {"au')
    said = rf"{damaged}/run\.json' cannot be read as the record of a run[^\n]*; restore it, or remove it"
    with pytest.raises(ResultFileError if is_here else StoreError, match=said):
        place.perform(run)


def test_data_that_differ_on_another_machine_are_refused_and_nothing_in_the_store_changes(
    llama: Path, tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise its digests were kept, the finished runs failed, and the first machine was refused from then on."""
    task = short_task(tmp_path)
    rows = Path(task.partition("?")[0])
    document = tiny_study(llama, task=task, measure=BRIEF, methods=[{"method": "full", "lr": 1e-3}])
    on_machine("first", tmp_path, monkeypatch)
    assert run_study(parsed(document), url).finished == 1
    before = contents(tmp_path / "store")
    lines = rows.read_text().splitlines(keepends=True)
    rows.write_text("".join(reversed(lines)))
    on_machine("second", tmp_path, monkeypatch)
    with pytest.raises(SettingError, match=f"{rows.name}.* has changed since runs of the study"):
        run_study(parsed(document), url)
    assert contents(tmp_path / "store") == before
    rows.write_text("".join(lines))
    on_machine("first", tmp_path, monkeypatch)
    assert run_study(parsed(document), url).failed == {}
