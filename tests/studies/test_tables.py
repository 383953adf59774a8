"""The tables: types, what is refused, and that a kill leaves the old or the new."""

import dataclasses
import json
import math
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from intruders.audits.result.audit_result import Audit
from intruders.audits.result.records import AuditedMatrix, UpdateSize, Vector
from intruders.audits.scales.critical_scales_result import CriticalScales, MatrixScale
from intruders.errors import ResultFileError
from intruders.studies.results import Results, load_results
from intruders.studies.runs import Run, expand
from intruders.studies.stages import stages_of
from intruders.studies.study import study_from_text
from intruders.studies.study_folder import StudyFolder
from intruders.studies.tables import (
    COLUMNS,
    arrow_schema,
    read_rows,
    refuse_newer_tables,
    rows_of,
    to_parquet,
    write_tables,
)
from tests.studies.planted import run
from tests.studies.tiny_study import parsed

TEXT = """
name: made-up
experiments:
  one:
    {base: b, task: word-problems, steps: 9, measure: {critical_scale: true}, methods: [
      {method: lora, rank: 2, alpha: [16, 2r], target_modules: [q_proj, v_proj]}, {method: full}]}
"""
STUDY = study_from_text(TEXT, name="made-up", where="the study")


def audit() -> Audit:
    """Two matrices of two vectors: one intruder of singular value 4 beside a 3, and none."""

    def matrix(name: str, intruder: bool, frobenius: float, spectral: float) -> AuditedMatrix:
        vectors = [
            Vector(0, 4.0, (0.1, 0.2) if intruder else (0.9, 0.9), intruder, "mass", False),
            Vector(1, 3.0, (0.8, 0.8), False, "overlap", False),
        ]
        size = UpdateSize(frobenius, spectral, 1.5, 0.0, 1.2)
        return AuditedMatrix(name, (6, 5), 1, vectors, size, [10.0, 2.0], np.zeros((2, 2), np.float32))

    first = matrix("model.layers.0.self_attn.q_proj.weight", True, 3.0, 2.0)
    second = matrix("model.layers.1.mlp.up_proj.weight", False, 4.0, 1.0)
    return Audit("b", "t", "adapter", 2, 0.5, False, 1.0, [first, second], [])


def finished(folder: Path, run: Run, stages: list[str], **record: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    settings = {stage.name: stage.settings(run) for stage in stages_of(run)}
    done = {name: {"settings": settings.get(name, {})} for name in stages}
    document = {"schema": 1, "status": "finished", "error": None, "stages": done}
    (folder / "run.json").write_text(json.dumps(document | record))


def with_audit(folder: Path, run: Run) -> Path:
    target = folder / "runs" / run.id
    finished(target, run, ["audit"])
    audit().save(target / "audit.json")
    return target


def written(folder: Path) -> Results:
    """Write the tables of what is in the folder, and load them."""
    runs = expand(STUDY)
    place = StudyFolder(folder)
    place.keep(STUDY, runs)
    write_tables(place, (rows_of(run, place.run(run.id)) for run in runs))
    return load_results(folder)


def test_a_study_of_which_nothing_is_done_has_all_tables_and_types(tmp_path: Path) -> None:
    results = written(tmp_path)
    assert list(results.runs["run_id"]) == [run.id for run in expand(STUDY)]
    assert set(results.runs["status"]) == {"pending"}
    for name, columns in COLUMNS.items():
        assert list(getattr(results, name).columns) == list(columns)
        assert pq.read_schema(tmp_path / f"{name}.parquet").equals(arrow_schema(name))


def test_results_of_the_same_tables_are_equal(tmp_path: Path) -> None:
    results = written(tmp_path)
    assert results.runs.isna().any(axis=None), "missing values are equal"
    assert results == load_results(tmp_path)
    changed = results.runs.assign(rank=4)
    assert results != dataclasses.replace(results, runs=changed)
    assert results != dataclasses.replace(results, select=("loss",))
    assert results != vars(results)


def test_two_spellings_of_one_base_are_one_base_where_their_contents_are_one(tmp_path: Path) -> None:
    """With two, LoRA from ./b would not be compared with full fine-tuning from b."""
    spelled = ["b", "./b", "copy/b", "retokenized/b", "c"]
    rows = [run("one", base=base) | {"run_id": base} for base in spelled]
    digests = dict.fromkeys(spelled[:4], "00") | {"c": "11"}
    digests |= {f"tokenizer of {base}": "22" for base in spelled} | {"tokenizer of retokenized/b": "33"}
    folder = StudyFolder(tmp_path)
    folder.keep(STUDY, expand(STUDY), digests)
    folder.table("runs").write_bytes(to_parquet("runs", rows))
    assert list(load_results(tmp_path).runs["base"]) == ["b", "b", "b", "retokenized/b", "c"]
    folder.keep(STUDY, expand(STUDY))  # on a cluster: no digests
    assert list(load_results(tmp_path).runs["base"]) == spelled


def test_settings_stand_in_columns_of_their_own(tmp_path: Path) -> None:
    runs = written(tmp_path).runs
    assert list(runs["alpha"])[:2] == ["16", "2r"]
    assert pd.isna(runs["alpha"].iloc[2]), "full fine-tuning has neither alpha nor rank"
    assert list(runs["rank"])[:2] == [2, 2]
    assert pd.isna(runs["rank"].iloc[2])
    assert list(runs["target_modules"])[:2] == ["q_proj,v_proj"] * 2
    assert list(runs["steps"]) == [9, 9, 9]


def test_numbers_of_an_audit_by_hand(tmp_path: Path) -> None:
    first, *_ = expand(STUDY)
    with_audit(tmp_path, first)
    results = written(tmp_path)
    run = results.runs.iloc[0]
    assert (run["intruders"], run["vectors"], run["affected_matrices"], run["matrices"]) == (1, 4, 1, 2)
    assert run["update_frobenius"] == pytest.approx(5.0)  # sqrt(3^2 + 4^2)
    assert run["intruder_energy_share"] == pytest.approx(16 / 50)
    assert run["relative_update"] == pytest.approx(0.15)  # median of 2/10 and 1/10
    assert run["effective_rank"] == pytest.approx(1.5)
    matrices = results.matrices
    assert list(matrices["kind"]) == ["q_proj", "up_proj"]
    assert list(matrices["layer"]) == [0, 1]
    assert list(matrices["intruder_energy_share"]) == pytest.approx([16 / 25, 0])
    assert list(results.vectors["intruder"]) == [True, False, False, False]
    assert results.vectors["max_cosine_lower"].iloc[0] == pytest.approx(0.1, abs=2**-20)  # rounded outward


def test_a_scale_that_was_not_found_is_infinite_and_one_not_measured_is_missing(tmp_path: Path) -> None:
    first, *_ = expand(STUDY)
    folder = with_audit(tmp_path, first)
    assert written(tmp_path).matrices["critical_scale"].isna().all()
    both = zip(audit().matrices, ((0.5, 0.6), (math.inf, 2.0)), strict=True)
    scales = [MatrixScale(matrix.name, (4, 4), *measured, 64.0) for matrix, measured in both]
    measured = CriticalScales("base", "tuned", 10, 0.5, 0, 0.48, 0, scales, 1.0)
    measured.save(folder / "scale.json")
    finished(folder, first, ["audit", "scale"])
    results = written(tmp_path)
    assert list(results.matrices["critical_scale"]) == [0.5, math.inf]
    assert list(results.matrices["predicted_scale"]) == [0.6, 2.0]
    assert results.runs["critical_scale"].iloc[0] == 0.48
    none = [dataclasses.replace(scale, measured=math.inf) for scale in scales]
    dataclasses.replace(measured, largest=64.0, matrices=none).save(folder / "scale.json")
    assert written(tmp_path).runs["critical_scale"].iloc[0] == math.inf


def test_a_stage_without_its_file_or_of_other_settings_is_not_in_the_tables(tmp_path: Path) -> None:
    """The study's file asked for other vectors when it was done."""
    first, *_ = expand(STUDY)
    folder = with_audit(tmp_path, first)
    finished(folder, first, ["audit", "intervene"])  # and there is no intervention.json
    results = written(tmp_path)
    assert results.interventions.empty
    assert results.runs["intruders"].iloc[0] == 1
    finished(folder, first, ["audit", "scale"])
    CriticalScales("b", "t", 2, 0.5, 0, 0.48, 0, [], 1.0).save(folder / "scale.json")
    assert written(tmp_path).runs["critical_scale"].iloc[0] == 0.48
    record = json.loads((folder / "run.json").read_text())
    record["stages"]["scale"]["settings"]["k"] += 1
    (folder / "run.json").write_text(json.dumps(record))
    results = written(tmp_path)
    assert pd.isna(results.runs["critical_scale"].iloc[0])
    assert results.runs["intruders"].iloc[0] == 1


def test_a_sequence_says_of_each_stage_its_steps_and_whether_it_reached_its_score(tmp_path: Path) -> None:
    experiment = {"kind": "sequence", "base": "b", "tasks": ["x", "y"], "steps": 5}
    (one,) = expand(parsed({"name": "s", "experiments": {"s": experiment}}))
    result = {"schema": 1, "tasks": ["x", "y"], "accuracies": [[0.9], [0.7, 0.8]], "average_accuracy": 0.75}
    result |= {"intruders": [1, 2], "vectors": [9, 9], "seconds": 3.0, "head_steps": []}
    result |= {"steps": [5, 3], "reached": [False, True], "sources": ["copy 1", None]}
    finished(tmp_path, one, ["sequence"])
    (tmp_path / "sequence.json").write_text(json.dumps(result))
    (tmp_path / "model").mkdir()
    found = rows_of(one, tmp_path)
    of_stages = [(row["reached"], row["trained_steps"]) for row in found["sequences"]]
    assert of_stages == [(False, 5), (True, 3), (True, 3)]
    run = found["runs"][0]
    assert (run["stopped_by"], run["trained_steps"], run["data_source"]) == ("steps", 8, "copy 1")


def test_the_trace_is_of_the_audits_matrices_under_their_names(tmp_path: Path) -> None:
    """The callback sees a head too, and calls a classifier's encoder by its class's prefix."""
    first, *_ = expand(STUDY)
    folder = with_audit(tmp_path, first)
    (folder / "model").mkdir()
    names = ["llama.model.layers.0.self_attn.q_proj.weight"] * 3 + ["score.weight"]
    values = {"singular_value": [4.0, 3.0, 2.0, 9.0], "update_frobenius": [0.5, 0.5, 0.7, 1.0]}
    values |= {"base_largest_value": [8.0, 8.0, 8.0, 1.0], "a_movement": [0.25, 0.25, 0.5, None]}
    trace = pd.DataFrame(
        {"step": [5, 5, 10, 5], "name": names, "intruder": [False, True, False, True], **values}
    )
    trace.to_parquet(folder / "model" / "intruders.parquet")
    rows = rows_of(first, folder)["traces"]
    assert [(row["step"], row["name"], row["intruders"], row["vectors"]) for row in rows] == [
        (5, "model.layers.0.self_attn.q_proj.weight", 1, 2),
        (10, "model.layers.0.self_attn.q_proj.weight", 0, 1),
    ]
    assert rows[0]["intruder_energy_share"] == pytest.approx(9 / 25)
    assert (rows[0]["largest_intruder_value"], rows[1]["largest_intruder_value"]) == (3.0, None)
    assert (rows[0]["frobenius"], rows[0]["base_largest_value"]) == (0.5, 8.0)
    assert [row["a_movement"] for row in rows] == [0.25, 0.5]
    trace["singular_value"] *= 1e200  # whose squares no double holds
    trace.to_parquet(folder / "model" / "intruders.parquet")
    large = rows_of(first, folder)["traces"]
    assert [row["intruder_energy_share"] for row in large] == [pytest.approx(9 / 25), 0.0]


def test_what_cannot_be_written_leaves_the_old_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path)
    before = (tmp_path / "runs.parquet").read_bytes()

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    with_audit(tmp_path, expand(STUDY)[0])
    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(ResultFileError, match="no space left on device"):
            written(tmp_path)
    assert (tmp_path / "runs.parquet").read_bytes() == before
    assert not list(tmp_path.glob(".*.part"))


def test_a_table_of_a_newer_version_is_neither_read_nor_written_over(tmp_path: Path) -> None:
    written(tmp_path)
    file = tmp_path / "vectors.parquet"
    metadata = {b"intruders_study": json.dumps({"schema": 99}).encode()}
    pq.write_table(pq.read_table(file).replace_schema_metadata(metadata), file)
    before = file.read_bytes()
    for call in (lambda: load_results(tmp_path), lambda: refuse_newer_tables(StudyFolder(tmp_path))):
        with pytest.raises(ResultFileError, match=r"vectors\.parquet' was written by a newer version"):
            call()
    assert file.read_bytes() == before


def test_a_table_that_is_broken_or_anothers_is_named(tmp_path: Path) -> None:
    with pytest.raises(ResultFileError, match="is not the folder of a study"):
        load_results(tmp_path)
    written(tmp_path)
    table, foreign = tmp_path / "runs.parquet", tmp_path / "foreign.parquet"
    whole = table.read_bytes()
    pd.DataFrame({"a": [1]}).to_parquet(foreign)
    cut_off = "is not a complete Parquet file; "
    for content, said in (
        (whole[: len(whole) // 2], f"{cut_off}remove it, and"),
        # The footer, which says what it is, is complete.
        (whole[:20] + bytes(200) + whole[220:], f"{cut_off}remove it, and"),
        (foreign.read_bytes(), "is not a table that intruders study wrote"),
        ((tmp_path / "losses.parquet").read_bytes(), "is the table 'losses' of a study; expected 'runs'"),
        (whole[:100], f"{cut_off}fetch it again"),
    ):
        if said.endswith("fetch it again"):
            (tmp_path / "published.json").write_text("{}")
        table.write_bytes(content)
        with pytest.raises(ResultFileError, match=rf"runs\.parquet' {said}"):
            load_results(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", 5), ("name", None), ("analyses", "rank"), ("analyses", [1]), ("select", {}),
        ("support", ["rank"]), ("primary", 3.5), ("inputs", []), ("files", {}),
        ("files", [{"date": "today"}]), ("compare_with", 3),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_quoted(tmp_path: Path, key: str, value: object) -> None:
    written(tmp_path)
    file = tmp_path / "study.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    said = rf"study\.json' is damaged: its {key} is {re.escape(repr(value))}; .*restore the file, or"
    with pytest.raises(ResultFileError, match=said):
        load_results(tmp_path)
    with pytest.raises(ResultFileError, match=said):
        StudyFolder(tmp_path).require_is_for(STUDY, must_exist=False)


@pytest.mark.parametrize("content", ['{"stages": []}', '{"stages": {"audit": 3}}'])
def test_a_runs_record_that_is_something_else_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ResultFileError, match="its stages are no objects by name; remove it"):
        rows_of(expand(STUDY)[0], tmp_path)


def read_again(bounds: list[tuple[float | None, float | None]], folder: Path) -> list[dict[str, Any]]:
    rows = [{"run_id": "a", "max_cosine_lower": low, "max_cosine_upper": high} for low, high in bounds]
    (folder / "vectors.parquet").write_bytes(to_parquet("vectors", rows))
    return read_rows(folder / "vectors.parquet")


def test_bounds_are_rounded_outward_to_a_millionth_and_missing_ones_stay(tmp_path: Path) -> None:
    rows = read_again([(0.3, 0.7), (0.0, 1.0), (None, 0.5)], tmp_path)
    # 0.3 and 0.7 times 2^20 are 314,572.8 and 734,003.2.
    wanted = [(314_572 / 2**20, 734_004 / 2**20), (0.0, 1.0), (None, 0.5)]
    assert [(row["max_cosine_lower"], row["max_cosine_upper"]) for row in rows] == wanted


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.floats(0, 2), st.floats(0, 2)), min_size=1))
def test_bounds_hold_the_true_ones(tmp_path: Path, bounds: list[tuple[float | None, float | None]]) -> None:
    once = read_again(bounds, tmp_path)
    for (low, high), row in zip(bounds, once, strict=True):
        assert low is not None
        assert high is not None
        assert 0 <= Fraction(low) - Fraction(row["max_cosine_lower"]) < Fraction(1, 2**20)
        assert 0 <= Fraction(row["max_cosine_upper"]) - Fraction(high) < Fraction(1, 2**20)
    # Rows that are taken over and published again lose nothing further.
    again = read_again([(row["max_cosine_lower"], row["max_cosine_upper"]) for row in once], tmp_path)
    assert again == once
