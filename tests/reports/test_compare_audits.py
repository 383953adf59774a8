"""Audits are compared on what they have in common."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from intruders.audits.audit import audit
from intruders.audits.result.audit_result import Audit
from intruders.errors import SettingError
from intruders.reports.compare_audits import common_matrices, labels_for
from intruders.reports.write_report import write_report
from tests.made_up import BERT, made_up_audit

ONE = made_up_audit(3, BERT, width=32, tuned="runs/a/r1")
TWO = made_up_audit(3, BERT, width=32, tuned="runs/a/r8", rank=8, seed=1)


def test_only_shared_matrices_are_kept_in_the_first_audits_order() -> None:
    fewer = dataclasses.replace(TWO, matrices=list(reversed(TWO.matrices[2:])))
    shared = common_matrices([ONE, fewer])
    assert [m.name for m in shared.audits[0].matrices] == [m.name for m in ONE.matrices[2:]]
    assert [m.name for m in shared.audits[1].matrices] == [m.name for m in ONE.matrices[2:]]
    assert shared.left_out == 2
    assert shared.matrices == len(ONE.matrices) - 2
    assert shared.other_bases == []


def test_a_matrix_of_another_shape_is_not_shared() -> None:
    first = dataclasses.replace(TWO.matrices[0], shape=(1, 2))
    shared = common_matrices([ONE, dataclasses.replace(TWO, matrices=[first, *TWO.matrices[1:]])])
    assert shared.matrices == len(ONE.matrices) - 1


def test_another_base_shows_in_its_singular_values() -> None:
    first = dataclasses.replace(TWO.matrices[0], base_singular_values=[1.0])
    shared = common_matrices([ONE, TWO, dataclasses.replace(TWO, tuned_source="x", matrices=[first])])
    assert shared.other_bases == ["x"]


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(SettingError, match="two audits or more, and 1"):
        common_matrices([ONE])
    other = made_up_audit(3, BERT, prefix="bert.layer", tuned="elsewhere")
    with pytest.raises(SettingError, match=r"'runs/a/r1', 'elsewhere' have no matrix in common"):
        common_matrices([ONE, other])


@pytest.mark.parametrize("at", [0, 1])
def test_a_checkpoint_that_changed_nothing_is_listed_without_intruders(tmp_path: Path, at: int) -> None:
    """As of an adapter at its first step; that it has no intruder says a dense decomposition of the base, too."""
    weight = torch.diag(torch.arange(9.0, 0.0, -1.0))
    changed = weight + 100 * torch.ones(9, 9) / 9
    settings: dict[str, Any] = {"k": 3, "cache": False}
    files = [tmp_path / "trained.json", tmp_path / "first.json"]
    for file, tuned in zip(files, (changed, weight.clone()), strict=True):
        audit({"up.weight": weight}, {"up.weight": tuned}, **settings).save(file)
    audits = [Audit.load(file) for file in files]
    assert (len(audits[0].matrices), audits[0].intruders, len(audits[1].matrices)) == (1, 1, 0)
    order = [audits[at], audits[1 - at]]
    shared = common_matrices(order)
    assert [each.intruders for each in shared.audits] == [each.intruders for each in order]
    assert (shared.matrices, shared.left_out, shared.other_bases) == (1, 0, [])
    (unchanged,) = shared.audits[1 - at].matrices
    base = np.linalg.svd(weight.double().numpy())
    values = [vector.singular_value for vector in unchanged.vectors]
    assert values == pytest.approx(base.S[:3].tolist(), rel=1e-5)
    cosines = np.abs(base.U.T @ base.U)[: len(unchanged.similarity), :3]
    np.testing.assert_allclose(unchanged.similarity, cosines, atol=1e-12)
    assert write_report([files[at], files[1 - at]], tmp_path / "page.html", tmp_path / "figures")


def test_audits_in_which_nothing_changed_are_told_as_such(tmp_path: Path) -> None:
    weight = {"up.weight": torch.diag(torch.arange(9.0, 0.0, -1.0))}
    same = audit(weight, {"up.weight": weight["up.weight"].clone()}, k=3, cache=False)
    first, second = (dataclasses.replace(same, tuned_source=name) for name in ("first", "second"))
    with pytest.raises(
        SettingError, match=r"^the audits of 'first', 'second' compare no matrix: each is equal"
    ):
        common_matrices([first, second])


def test_an_audit_of_nothing_is_not_taken_for_one_in_which_nothing_changed() -> None:
    nothing = dataclasses.replace(ONE, matrices=[], skipped=[])
    with pytest.raises(SettingError, match="have no matrix in common"):
        common_matrices([nothing, TWO])


@pytest.mark.parametrize(
    ("sources", "labels"),
    [
        (["runs/a/r1", "runs/a/r8"], ["r1", "r8"]),
        (["runs/a/r1/final", "runs/b/r1/final/"], ["a/r1/final", "b/r1/final"]),
        (["runs/a", "runs/a/b"], ["a", "a/b"]),
        (["x", "y"], ["x", "y"]),
        (["same", "same"], ["1: same", "2: same"]),
        (["/m/a", "hub/b"], ["/m/a", "hub/b"]),
    ],
)
def test_labels_drop_what_all_share(sources: list[str], labels: list[str]) -> None:
    assert labels_for([dataclasses.replace(ONE, tuned_source=source) for source in sources]) == labels
