"""Audits are counted from their intervals, and come back from a file as they went in."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intruders.audits.result.audit_result import Audit
from intruders.audits.result.records import AuditedMatrix, UpdateSize, Vector
from intruders.checkpoints.pairing.pairing import SkipKind, Skipped
from intruders.errors import ResultFileError, SettingError
from tests.made_up import BERT, made_up_audit

SUFFIXES = (".json", ".parquet")


@pytest.fixture(scope="module")
def audit() -> Audit:
    return made_up_audit(4, BERT, width=64, prefix="encoder.layer", intruder_rate=0.3)


# --- counting


def vector(index: int, lower: float, upper: float, intruder: bool, value: float = 1.0) -> Vector:
    return Vector(index, value, (lower, upper), intruder, "overlap", False)


def matrix_of(*vectors: Vector, name: str = "w") -> AuditedMatrix:
    return AuditedMatrix(
        name=name,
        shape=(8, 8),
        rank=None,
        vectors=list(vectors),
        update=UpdateSize(1.0, 1.0, 1.0, 0.0, 1.0),
        base_singular_values=[2.0],
        similarity=np.zeros((1, len(vectors)), dtype=np.float32),
    )


def audit_of(*matrices: AuditedMatrix, k: int = 3) -> Audit:
    return Audit("base", "tuned", "checkpoint", k, 0.5, False, 1.0, list(matrices), [])


def test_count_by_hand() -> None:
    vectors = vector(0, 0.1, 0.2, True), vector(1, 0.6, 0.8, False), vector(2, 0.3, 0.45, True)
    audit = audit_of(matrix_of(*vectors))
    assert audit.count() == (2, 2)
    assert audit.count(k=2) == (1, 1)
    assert audit.count(epsilon=0.15) == (0, 1)  # 0.1 to 0.2 may lie on either side
    assert audit.count(epsilon=0.2) == (0, 1)  # the upper end itself is not below epsilon
    assert audit.count(epsilon=0.7) == (2, 3)
    assert audit.count(epsilon=0.6) == (2, 2)  # at least 0.6 is not below 0.6
    assert audit.count(k=1, epsilon=1.0) == (1, 1)
    # At the audit's own epsilon a count is what was decided, and not what the bounds leave open.
    assert audit_of(matrix_of(vector(0, 0.4, 0.6, True), vector(1, 0.4, 0.6, False))).count() == (1, 1)


def test_a_matrix_is_affected_by_its_first_intruder() -> None:
    without = matrix_of(vector(0, 0.6, 0.8, False))
    with_one = matrix_of(vector(0, 0.1, 0.2, True))
    with_two = matrix_of(vector(0, 0.1, 0.2, True), vector(1, 0.1, 0.2, True))
    assert audit_of(without).affected == 0
    assert audit_of(with_one, without, with_two).affected == 2


@settings(max_examples=50)
@given(st.integers(1, 10), st.floats(0.001, 1.0))
def test_count_brackets_the_count_at_any_true_cosine_within_the_intervals(k: int, epsilon: float) -> None:
    audit = made_up_audit(1, BERT, width=16, intruder_rate=0.4)
    rng = np.random.default_rng(round(epsilon * 1e6))
    leading = [v for matrix in audit.matrices for v in matrix.vectors if v.index < k]
    true = sum(bool(rng.uniform(*v.max_cosine) < epsilon) for v in leading)
    at_least, at_most = audit.count(k, epsilon)
    if epsilon != audit.epsilon:
        assert at_least <= true <= at_most


@pytest.mark.parametrize(
    ("k", "epsilon"),
    [(0, 0.5), (4, 0.5), ("3", 0.5), (1.5, 0.5), (True, 0.5), (2, 0.0), (2, 1.01), (2, math.nan), (2, "0.5")],
)
def test_count_refuses_what_it_cannot_answer(k: Any, epsilon: Any) -> None:
    with pytest.raises(SettingError, match=str(k) if k != 2 else "epsilon"):
        audit_of(matrix_of(vector(0, 0.1, 0.2, True))).count(k, epsilon)


def test_a_name_that_was_not_audited_is_answered_with_the_nearest(audit: Audit) -> None:
    name = "encoder.layer.1.attention.self.query.weight"
    assert audit.matrix(name).name == name
    with pytest.raises(SettingError, match=r"layer\.1\.attention\.self\.query"):
        audit.matrix("encoder.layer.1.attention.query.weight")


# --- tables


def test_to_pandas_has_a_row_a_vector(audit: Audit) -> None:
    frame = audit.to_pandas()
    assert len(frame) == audit.vectors
    assert frame["intruder"].sum() == audit.intruders
    first = audit.matrices[0].vectors[3]
    assert tuple(frame.loc[3, ["max_cosine_lower", "max_cosine_upper"]]) == first.max_cosine
    assert list(audit_of().to_pandas().columns) == list(frame.columns)


def test_matrices_to_pandas_has_a_row_a_matrix(audit: Audit) -> None:
    frame = audit.matrices_to_pandas()
    assert list(frame["name"]) == [matrix.name for matrix in audit.matrices]
    assert frame["intruders"].sum() == audit.intruders
    by = frame[["by_coordinates", "by_overlap", "by_mass", "by_moment", "by_exact"]]
    assert (by.sum(axis=1) == frame["vectors"]).all()
    dense = made_up_audit(1, BERT, width=64, rank=None).matrices_to_pandas()
    assert dense["rank"].isna().all()
    assert frame.dtypes["rank"] == dense.dtypes["rank"] == "Int64"
    assert not frame["rho_k"].isna().any()
    unmeasured = [dataclasses.replace(matrix, subspaces=None) for matrix in audit.matrices]
    assert dataclasses.replace(audit, matrices=unmeasured).matrices_to_pandas()["rho_k"].isna().all()
    empty = audit_of().matrices_to_pandas()  # of a checkpoint that changed nothing
    assert list(empty.columns) == list(frame.columns)
    assert (len(empty), empty["intruders"].sum()) == (0, 0)


# --- files


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_audit_comes_back_equal(audit: Audit, tmp_path: Path, suffix: str) -> None:
    """With numbers at both ends of doubles and of single precision, any letters, and what was not measured."""
    odd = AuditedMatrix(
        name="é \"'\n\0 \U0001f642",
        shape=(2**40, 1),
        rank=None,
        vectors=[vector(99, 0.1 + 0.2, 1 / 3, True, 5e-324), vector(3, -1e300, 1e300, False, 1e300)],
        update=UpdateSize(1.7e308, 2.2e-308, 0.1, 0.0, -0.0),
        base_singular_values=[],
        similarity=np.array([[1e-45, 3.4e38], [np.float32(1 / 3), 0.0]], dtype=np.float32),
    )
    empty = dataclasses.replace(odd, name="", similarity=np.zeros((0, 2), dtype=np.float32))
    skipped = [Skipped("a", "in words that say nothing of it", kind) for kind in SkipKind]
    how = {"include": [odd.name], "device": "cpu"}
    for matrices in ([], audit.matrices, [odd, *audit.matrices, empty]):
        of_these = dataclasses.replace(
            audit, matrices=matrices, tuned_source=odd.name, settings=how, skipped=skipped
        )
        of_these.save(tmp_path / f"audit{suffix}")
        assert Audit.load(tmp_path / f"audit{suffix}") == of_these


def test_matrices_that_differ_in_one_entry_are_not_equal(audit: Audit) -> None:
    one = audit.matrices[0]
    changed = one.similarity.copy()
    changed[0, 0] += 1e-3
    assert dataclasses.replace(one, similarity=changed) != one
    assert dataclasses.replace(one, rank=7) != one
    assert one != "a matrix"


def test_parquet_is_a_table_for_anyone(audit: Audit, tmp_path: Path) -> None:
    audit.save(tmp_path / "audit.parquet")
    frame, wanted = pd.read_parquet(tmp_path / "audit.parquet"), audit.to_pandas()
    pd.testing.assert_frame_equal(frame[list(wanted.columns)], wanted, check_dtype=False)
    assert np.array_equal(frame["similarity"][13], audit.matrices[1].similarity[:, 3])


OTHER = "is not a saved audit; pass a file that `intruders audit --json` wrote"


def replaced(document: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    changed = json.loads(json.dumps(document))
    *keys, last = (int(key) if key.isdecimal() else key for key in path.split("."))
    inner = changed
    for key in keys:
        inner = inner[key]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return changed


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        ("base", ..., OTHER),
        ("base.source", 3, OTHER),
        ("settings.k", True, OTHER),
        ("settings.k", ..., OTHER),
        ("settings.epsilon", "0.5", OTHER),
        ("totals.intruders", 10**9, "totals say"),
        ("matrices", {}, "totals say"),
        ("matrices.0", None, OTHER),
        ("matrices.1.shape", [4], "cannot be read"),
        ("matrices.1.vectors", [], "vectors"),
        ("matrices.1.vectors.0.certificate", "hearsay", "hearsay"),
        ("matrices.1.vectors.0.max_cosine", ["a", "b"], OTHER),
        ("matrices.1.vectors.0.singular_value", 10**400, "too large"),
        ("matrices.1.similarity.float32", "%%%", "base64"),
        ("matrices.1.similarity.shape", [1, 1], "size"),
        ("matrices.1.base_singular_values", ["x"], OTHER),
        ("skipped", [1], OTHER),
        ("skipped", [{"name": "a", "reason": "unchanged", "kind": "other things"}], "other things"),
        ("versions", {"torch": 2}, OTHER),
    ],
)
def test_a_document_that_is_not_an_audit_is_refused_in_one_line(
    audit: Audit, tmp_path: Path, where: str, value: object, said: str
) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(replaced(audit.to_document(), where, value)))
    with pytest.raises(ResultFileError, match=said):
        Audit.load(path)


@pytest.mark.parametrize("text", ["", "[]", "null", "3", '{"schema": NaN}', "[" * 100_000, '"\\ud800"'])
def test_other_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ResultFileError):
        Audit.load(tmp_path / "a.json")


def test_the_result_of_another_command_is_called_no_audit_whatever_its_schema() -> None:
    with pytest.raises(ResultFileError, match=OTHER):
        Audit.load(Path(__file__).parents[2] / "fixtures" / "schema-2" / "fleet.json")


def test_a_parquet_file_of_something_else_is_refused(audit: Audit, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"name": ["a"]}), path)
    with pytest.raises(ResultFileError, match="not one that `intruders` wrote"):
        Audit.load(path)
    audit.save(path)
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["intruder"]), path)
    with pytest.raises(ResultFileError, match="'intruder'"):
        Audit.load(path)
    pq.write_table(table.slice(5), path)
    with pytest.raises(ResultFileError, match="totals say"):
        Audit.load(path)


@pytest.mark.parametrize("name", ["audit.csv", "audit"])
def test_other_endings_are_refused_with_the_two_known(audit: Audit, tmp_path: Path, name: str) -> None:
    for use in (audit.save, Audit.load):
        with pytest.raises(SettingError, match=r"\.json or \.parquet"):
            use(tmp_path / name)


def test_an_audit_shows_itself_in_one_line(audit: Audit) -> None:
    assert repr(audit) == (
        f"Audit({audit.base_source!r}, {audit.tuned_source!r}: {audit.intruders} intruders in {audit.vectors} vectors "
        f"of {len(audit.matrices)} matrices, k={audit.k}, epsilon={audit.epsilon})"
    )
