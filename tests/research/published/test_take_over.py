"""Published runs taken over by a study elsewhere: checked, and not trained again."""

import hashlib
import json
import shutil
from functools import partial
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
from tests.research.continued import TABLES, nothing_is_trained, only_of, same_tables
from tests.research.parsed import parsed, run_study
from tests.studies.tiny_study import cut_off_at, tiny_study


def test_a_run_that_is_taken_over_is_not_trained_again(
    published: tuple[Path, Path], own: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing_is_trained(monkeypatch)
    outcome = run_study(own, tmp_path / "out", published=published[1])
    assert (outcome.finished, len(outcome.taken_over), outcome.refused) == (2, 2, {})
    same_tables(load_results(tmp_path / "out"), load_results(published[0]))
    assert not list((tmp_path / "out" / "runs").rglob("*.safetensors"))
    again = run_study(own, tmp_path / "out", resume=True)
    assert (again.finished, again.taken_over) == (2, [])
    record = RunRecord(tmp_path / "out" / "runs" / outcome.taken_over[0]).read()
    assert record["taken_over"]["study"] == "tiny"


@pytest.mark.parametrize(
    ("table", "damage", "told"),
    [
        (
            "losses",
            lambda file: file.write_bytes(b"PAR1 cut off"),
            r"is not a complete .* with --from, which",
        ),
        *(
            (table, Path.unlink, r"does not exist; expected rows of")
            for table in ("runs", "losses", "matrices", "vectors", "interventions", "traces")
        ),
    ],
)
def test_a_damaged_table_of_a_run_that_was_taken_over_says_how_to_take_it_over_again(
    published: tuple[Path, Path],
    own: Study,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    table: str,
    damage: Any,
    told: str,
) -> None:
    """The run would stay finished, and its rows would be gone from the tables."""
    nothing_is_trained(monkeypatch)
    out = tmp_path / "out"
    run_id, _ = run_study(own, out, published=published[1]).taken_over
    kept = {name: (out / f"{name}.parquet").read_bytes() for name in TABLES}
    damage(out / "runs" / run_id / "taken-over" / f"{table}.parquet")
    with pytest.raises(ResultFileError, match=rf"{table}\.parquet' {told}") as caught:
        run_study(own, out)
    assert kept == {name: (out / f"{name}.parquet").read_bytes() for name in TABLES}
    named = Path(str(caught.value).partition("remove '")[2].partition("'")[0])
    assert named == out / "runs" / run_id
    shutil.rmtree(named)
    assert run_study(own, out, published=published[1]).taken_over == [run_id]
    same_tables(load_results(out), load_results(published[0]))


def test_the_folder_of_all_published_studies_has_this_one_under_any_name(
    published: tuple[Path, Path], own: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing_is_trained(monkeypatch)
    shutil.copytree(published[1], tmp_path / "data" / "of-may")
    (tmp_path / "data" / "a-damaged-one").mkdir()
    (tmp_path / "data" / "a-damaged-one" / "published.json").write_text("{")
    outcome = run_study(own, tmp_path / "out", published=tmp_path / "data")
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


def other_k(document: dict[str, Any], data: Path) -> None:
    document["experiments"]["matched"]["measure"]["audit"]["k"] = 3


def other_base(document: dict[str, Any], data: Path) -> None:
    record = json.loads((data / "published.json").read_text())
    for run in record["runs"]:
        run["stages"]["train"]["inputs"][f"base '{document['experiments']['matched']['base']}'"] = 32 * "0"
    (data / "published.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (other_k, r"'audit' was measured by other settings: k \(3 here, 4 there\)"),
        (other_base, r"base '.*' has another content here"),
    ],
)
def test_a_study_with_nothing_to_take_over_is_refused_before_it_begins(
    data: Path, llama: Path, tmp_path: Path, change: Any, told: str
) -> None:
    document = tiny_study(llama)
    change(document, data)
    with pytest.raises(SettingError, match=told):
        run_study(parsed(document), tmp_path / "out", published=data)
    assert not (tmp_path / "out").exists()


def test_a_kill_in_between_loses_nothing(
    published: tuple[Path, Path], own: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
            run_study(own, tmp_path / "out", published=published[1])
    nothing_is_trained(monkeypatch)
    outcome = run_study(own, tmp_path / "out", published=published[1])
    assert outcome.finished == 2
    assert set(outcome.taken_over).isdisjoint(killed), "the first was there already"
    same_tables(load_results(tmp_path / "out"), load_results(published[0]))


def signed(data: Path) -> None:
    """Let the record have the digests of the tables as they are now."""
    record = json.loads((data / "published.json").read_text())
    for name in record["files"]:
        record["files"][name] = hashlib.sha256((data / name).read_bytes()).hexdigest()
    (data / "published.json").write_text(json.dumps(record))


def other_batch_size(data: Path) -> None:
    table = pq.read_table(data / "runs.parquet")
    at = table.column_names.index("batch_size")
    table = table.set_column(at, "batch_size", pa.array([5, 5], table.schema.field("batch_size").type))
    pq.write_table(table, data / "runs.parquet")
    signed(data)


def only_first(data: Path, table: str) -> None:
    only_of(data / f"{table}.parquet", json.loads((data / "published.json").read_text())["runs"][0]["id"])
    signed(data)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda data: (data / "runs.parquet").write_bytes(b"PAR1"), "is not the file that was published"),
        (lambda data: (data / "vectors.parquet").unlink(), "has no 'vectors.parquet'"),
        (lambda data: (data / "published.json").write_text('{"schema": 1, "files": {}}'), "is damaged"),
        (lambda data: (data / "published.json").write_text("{"), "cannot be read as"),
        (other_batch_size, r"runs\.parquet has batch_size 5 for the run .* has 4"),
        *(
            (partial(only_first, table=table), rf"has 0 rows of the run '.*full.*' in {table}\.parquet")
            for table in ("runs", "losses", "matrices", "vectors")
        ),
    ],
)
def test_damaged_tables_are_refused(own: Study, data: Path, tmp_path: Path, damage: Any, told: str) -> None:
    damage(data)
    with pytest.raises(ResultFileError, match=told):
        run_study(own, tmp_path / "out", published=data)
    assert not (tmp_path / "out").exists()


def test_runs_are_taken_over_into_a_folder_of_this_machine(published: tuple[Path, Path], own: Study) -> None:
    with pytest.raises(SettingError, match="--from works with a folder on this machine"):
        run_study(own, "memory://bucket/study", published=published[1])


def test_a_run_that_was_begun_here_and_taken_over_stays_taken_over(
    published: tuple[Path, Path], own: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder has a model of its own, trained further than the measures: what is taken over is not of that one."""
    out = tmp_path / "out"
    cut_off_at("evaluate", own, out, monkeypatch)
    [weights] = (out / "runs").rglob("adapter_model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    nothing_is_trained(monkeypatch)
    outcome = run_study(own, out, published=published[1])
    assert (outcome.finished, len(outcome.taken_over), outcome.failed) == (2, 2, {})
    same_tables(load_results(out), load_results(published[0]))
