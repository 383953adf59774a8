"""Published runs taken over by a study elsewhere: checked, and not trained again."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from intruders.errors import ResultFileError, SettingError
from intruders.studies.results import load_results
from intruders.studies.runs import expand
from intruders.studies.study import Study
from intruders.studies.study_folder import RunRecord
from research.tests.continued import TABLES, nothing_is_trained, only_of, same_tables
from research.tests.parsed import parsed, run_study
from tests.studies.tiny_study import cut_off_at, tiny_study


def test_a_run_that_is_taken_over_is_not_trained_again(
    published: tuple[Path, Path], llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing_is_trained(monkeypatch)
    study = parsed(tiny_study(llama))
    outcome = run_study(study, tmp_path / "out", published=published[1])
    assert (outcome.finished, len(outcome.taken_over), outcome.refused) == (2, 2, {})
    same_tables(load_results(tmp_path / "out"), load_results(published[0]))
    assert not list((tmp_path / "out" / "runs").rglob("*.safetensors"))
    again = run_study(study, tmp_path / "out", resume=True)
    assert (again.finished, again.taken_over) == (2, [])
    record = RunRecord(tmp_path / "out" / "runs" / outcome.taken_over[0]).read()
    assert record["taken_over"]["study"] == "tiny"


@pytest.fixture
def taken(
    published: tuple[Path, Path], llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Study, Path, str]:
    """A study, its folder, and a run of it that was taken over; nothing can be trained."""
    nothing_is_trained(monkeypatch)
    study, out = parsed(tiny_study(llama)), tmp_path / "out"
    return study, out, run_study(study, out, published=published[1]).taken_over[0]


def _cut_off(file: Path) -> None:
    file.write_bytes(b"PAR1 cut off")


@pytest.mark.parametrize(
    ("table", "damage", "told"),
    [
        ("losses", _cut_off, r"is not a complete .* with --from, which"),
        *(
            (table, Path.unlink, r"does not exist; expected rows of")
            for table in ("runs", "losses", "matrices", "vectors", "interventions", "traces")
        ),
    ],
)
def test_a_damaged_table_of_a_run_that_was_taken_over_says_how_to_take_it_over_again(
    published: tuple[Path, Path], taken: tuple[Study, Path, str], table: str, damage: Any, told: str
) -> None:
    """The run would stay finished, and its rows would be gone from the tables."""
    study, out, run_id = taken
    kept = {name: (out / f"{name}.parquet").read_bytes() for name in TABLES}
    damage(out / "runs" / run_id / "taken-over" / f"{table}.parquet")
    with pytest.raises(ResultFileError, match=rf"{table}\.parquet' {told}") as caught:
        run_study(study, out)
    assert kept == {name: (out / f"{name}.parquet").read_bytes() for name in TABLES}
    named = Path(str(caught.value).partition("remove '")[2].partition("'")[0])
    assert named == out / "runs" / run_id
    shutil.rmtree(named)
    assert run_study(study, out, published=published[1]).taken_over == [run_id]
    same_tables(load_results(out), load_results(published[0]))


def test_the_folder_of_all_published_studies_has_this_one_under_any_name(
    published: tuple[Path, Path], llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing_is_trained(monkeypatch)
    shutil.copytree(published[1], tmp_path / "data" / "of-may")
    (tmp_path / "data" / "a-damaged-one").mkdir()
    (tmp_path / "data" / "a-damaged-one" / "published.json").write_text("{")
    outcome = run_study(parsed(tiny_study(llama)), tmp_path / "out", published=tmp_path / "data")
    assert (outcome.finished, len(outcome.taken_over)) == (2, 2)


def test_a_changed_setting_is_not_taken_over(
    published: tuple[Path, Path], llama: Path, tmp_path: Path
) -> None:
    document = tiny_study(llama)
    document["experiments"]["matched"]["methods"][0]["lr"] = 0.4
    outcome = run_study(parsed(document), tmp_path / "out", published=published[1])
    ids = [run.id for run in expand(parsed(tiny_study(llama)))]
    (lora,), (full,) = ([one for one in ids if method in one] for method in ("lora", "full"))
    assert outcome.taken_over == [full]
    assert list(outcome.refused) == [lora]
    assert "lr (0.4 here, 0.5 there)" in outcome.refused[lora]
    assert outcome.finished == 2
    results = load_results(tmp_path / "out")
    assert sorted(results.runs["lr"]) == [1e-3, 0.4]
    same_tables(results, load_results(published[0]), [full])


def test_a_study_with_nothing_to_take_over_is_refused_before_it_begins(
    published: tuple[Path, Path], llama: Path, tmp_path: Path
) -> None:
    study = parsed(tiny_study(llama, steps=3))
    with pytest.raises(SettingError, match=r"steps \(3 here, 2 there\)"):
        run_study(study, tmp_path / "out", published=published[1])
    assert not (tmp_path / "out").exists()


def test_a_measure_by_other_settings_is_not_taken_over(
    published: tuple[Path, Path], llama: Path, tmp_path: Path
) -> None:
    document = tiny_study(llama)
    document["experiments"]["matched"]["measure"]["audit"]["k"] = 3
    with pytest.raises(SettingError, match=r"'audit' was measured by other settings: k \(3 here, 4 there\)"):
        run_study(parsed(document), tmp_path / "out", published=published[1])


def test_a_run_that_was_made_from_another_base_is_not_taken_over_and_the_base_is_named(
    published: tuple[Path, Path], llama: Path, tmp_path: Path
) -> None:
    shutil.copytree(published[1], tmp_path / "data")
    document = json.loads((tmp_path / "data" / "published.json").read_text())
    for run in document["runs"]:
        run["stages"]["train"]["inputs"][f"base '{llama}'"] = 32 * "0"
    (tmp_path / "data" / "published.json").write_text(json.dumps(document))
    with pytest.raises(SettingError, match=rf"base '{llama}' has another content here"):
        run_study(parsed(tiny_study(llama)), tmp_path / "out", published=tmp_path / "data")
    assert not (tmp_path / "out").exists()


def test_a_kill_in_between_loses_nothing(
    published: tuple[Path, Path], llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = parsed(tiny_study(llama))
    whole = RunRecord.take_over
    killed: list[str] = []

    def killed_at_the_second(record: RunRecord, run: Any, *others: Any) -> None:
        if killed:
            raise KeyboardInterrupt
        killed.append(run.id)
        whole(record, run, *others)

    with monkeypatch.context() as patched:
        patched.setattr(RunRecord, "take_over", killed_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            run_study(study, tmp_path / "out", published=published[1])
    nothing_is_trained(monkeypatch)
    outcome = run_study(study, tmp_path / "out", published=published[1])
    assert outcome.finished == 2
    assert set(outcome.taken_over).isdisjoint(killed), "the first was there already"
    same_tables(load_results(tmp_path / "out"), load_results(published[0]))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda data: (data / "runs.parquet").write_bytes(b"PAR1"), "is not the file that was published"),
        (lambda data: (data / "vectors.parquet").unlink(), "has no 'vectors.parquet'"),
        (lambda data: (data / "published.json").unlink(), "has no published.json"),
        (lambda data: (data / "published.json").write_text('{"schema": 1, "files": {}}'), "is damaged"),
        (lambda data: (data / "published.json").write_text("{"), "cannot be read as"),
    ],
)
def test_damaged_tables_are_refused(
    published: tuple[Path, Path], llama: Path, tmp_path: Path, damage: Any, told: str
) -> None:
    data = tmp_path / "data"
    shutil.copytree(published[1], data)
    damage(data)
    with pytest.raises(ResultFileError, match=told):
        run_study(parsed(tiny_study(llama)), tmp_path / "out", published=data)
    assert not (tmp_path / "out").exists()


def test_tables_that_say_other_settings_than_the_record_are_refused(
    published: tuple[Path, Path], llama: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(published[1], data)
    table = pq.read_table(data / "runs.parquet")
    at = table.column_names.index("batch_size")
    table = table.set_column(at, "batch_size", pa.array([5, 5], table.schema.field("batch_size").type))
    pq.write_table(table, data / "runs.parquet")
    document = json.loads((data / "published.json").read_text())
    document["files"]["runs.parquet"] = hashlib.sha256((data / "runs.parquet").read_bytes()).hexdigest()
    (data / "published.json").write_text(json.dumps(document))
    with pytest.raises(ResultFileError, match=r"runs\.parquet has batch_size 5 for the run .* has 4"):
        run_study(parsed(tiny_study(llama)), tmp_path / "out", published=data)


@pytest.mark.parametrize("table", ["losses", "matrices", "vectors"])
def test_a_run_without_its_rows_is_not_taken_over(
    published: tuple[Path, Path], llama: Path, tmp_path: Path, table: str
) -> None:
    data = tmp_path / "data"
    shutil.copytree(published[1], data)
    first, second = (run.id for run in expand(parsed(tiny_study(llama))))
    only_of(data / f"{table}.parquet", first)
    document = json.loads((data / "published.json").read_text())
    content = (data / f"{table}.parquet").read_bytes()
    document["files"][f"{table}.parquet"] = hashlib.sha256(content).hexdigest()
    (data / "published.json").write_text(json.dumps(document))
    with pytest.raises(ResultFileError, match=rf"has 0 rows of the run '{second}' in {table}\.parquet"):
        run_study(parsed(tiny_study(llama)), tmp_path / "out", published=data)
    assert not (tmp_path / "out").exists()


def test_runs_are_taken_over_into_a_folder_of_this_machine(published: tuple[Path, Path], llama: Path) -> None:
    with pytest.raises(SettingError, match="--from works with a folder on this machine"):
        run_study(parsed(tiny_study(llama)), "memory://bucket/study", published=published[1])


def test_a_run_that_was_begun_here_and_taken_over_stays_taken_over(
    published: tuple[Path, Path], llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder has a model of its own, trained further than the measures: what is taken over is not of that one."""
    study, out = parsed(tiny_study(llama)), tmp_path / "out"
    cut_off_at("evaluate", study, out, monkeypatch)
    [weights] = (out / "runs").rglob("adapter_model.safetensors")
    flip_last_byte(weights)
    nothing_is_trained(monkeypatch)
    outcome = run_study(study, out, published=published[1])
    assert (outcome.finished, len(outcome.taken_over), outcome.failed) == (2, 2, {})
    same_tables(load_results(out), load_results(published[0]))


def flip_last_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
