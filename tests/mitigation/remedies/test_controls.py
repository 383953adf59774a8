"""Controls change what they claim to, by as much as they claim: by their formulas in dense arithmetic."""

import copy
import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from intruders.audits.result.records import AuditedMatrix, UpdateSize, Vector
from intruders.linalg.pair import Pair
from intruders.mitigation.remedies.at_random import at_random
from intruders.mitigation.remedies.base_directions import Directions, Project
from intruders.mitigation.remedies.changes import Change
from intruders.mitigation.remedies.controls import Complement, EqualNorm, EqualOutput, EqualSize
from intruders.mitigation.remedies.entries import Trim
from intruders.mitigation.remedies.every_remedy import published_remedy, remedy_named
from intruders.mitigation.remedies.remedy import Case, Remedy, ScaledIntruders
from intruders.mitigation.remedies.remedy_table import CONTROLS, INTRUDERS
from intruders.mitigation.remedies.shares import Interpolate
from intruders.mitigation.remedies.singular_values import Budget, Truncate
from intruders.mitigation.tuned_matrices import TunedMatrices
from intruders.reports.mitigation import mitigation_lines
from tests.mitigation.hot import (
    deviation,
    matrices_of,
    merged_from,
    mitigated,
    places_of_intruders,
    scaled,
)
from tests.mitigation.remedies.conftest import NO_CACHE, Tuned

SCALE = 0.3


@pytest.mark.parametrize("which", ["all", "top"])
@pytest.mark.parametrize("control", [INTRUDERS, *CONTROLS])
def test_intruders_or_what_takes_their_place_are_scaled_by_the_same_lambda(
    tmp_path: Path, of_large_matrices: Tuned, control: str, which: str
) -> None:
    """Other vectors of the same matrices, or directions of their updates; all else stays, and at scale 1 everything."""
    given = {"control": control, "which": which}
    result = mitigated(of_large_matrices.folder, scale=SCALE, out=tmp_path / "out", **given)
    found = merged_from(tmp_path / "out", copy.deepcopy(of_large_matrices.model))
    changed = {matrix.name for matrix in result.matrices}
    assert len(changed) > 8
    assert changed == {matrix.name for matrix in result.before.matrices if matrix.intruders}
    for name in of_large_matrices.tuned.keys() - changed:
        assert deviation(found[name], of_large_matrices.tuned[name]) < 1e-6
    for matrix in result.matrices:
        before, after = of_large_matrices.base[matrix.name], of_large_matrices.tuned[matrix.name]
        intruders = places_of_intruders(before, after)
        chosen, update = intruders[: {"all": 10, "top": 1}[which]], after - before
        by_intruders, by_others = (scaled(after, places, SCALE) for places in (chosen, matrix.scaled))
        wanted = {
            "intruders": by_intruders,
            "random": by_others,
            "neighbours": by_others,
            "update": before + scaled(update, list(range(min(len(chosen), 2))), SCALE),
            "shrink": before + (by_intruders - before).norm() / update.norm() * update,
        }
        if control in wanted:
            assert deviation(found[matrix.name], wanted[control]) < 1e-3, matrix.name
        if control in ("random", "neighbours"):
            assert not set(intruders) & set(matrix.scaled)
            assert len(matrix.scaled) == min(len(chosen), 10 - len(intruders))
    same = mitigated(of_large_matrices.folder, scale=1, out=tmp_path / "same", **given)
    assert same.matrices == []
    assert same.after.intruders == same.before.intruders


def made(intruders: set[int], k: int = 6) -> AuditedMatrix:
    rows = [
        Vector(j, float(k - j), (0.0, 0.1) if j in intruders else (0.9, 1.0), j in intruders, "exact", False)
        for j in range(k)
    ]
    return AuditedMatrix("w", (8, 8), 1, rows, UpdateSize(1, 1, 1, 0, 1), [1.0], np.zeros((1, k), np.float32))


@pytest.mark.parametrize(
    ("intruders", "neighbours"),
    [
        ({0}, [1]), ({2}, [1]), ({1, 2}, [0, 3]), ({0, 1, 2}, [3, 4, 5]), ({5}, [4]), (set(range(6)), []),
        ({0, 1, 2, 3}, [4, 5]),
    ],
)  # fmt: skip
def test_neighbours_are_the_nearest_in_rank(intruders: set[int], neighbours: list[int]) -> None:
    assert list(remedy_named("neighbours", 0.5, 0).scaled(made(intruders)).indices) == neighbours
    drawn = remedy_named("random", 0.5, 3).scaled(made(intruders)).indices
    assert len(drawn) == len(neighbours)
    assert not set(drawn) & intruders
    assert remedy_named("random", 0.5, 3).scaled(made(intruders)).indices == drawn


def test_random_vectors_are_drawn_by_seed() -> None:
    drawn = {remedy_named("random", 0.5, seed).scaled(made({0, 1})).indices for seed in range(9)}
    assert len(drawn) > 1


@cache
def audited(folder: Path) -> TunedMatrices:
    return matrices_of(folder / "base", folder / "tuned")


def cases_of(one: Tuned, *remedies: Remedy) -> list[Case]:
    return list(audited(one.folder).read(remedies))


def left_of(one: Tuned, remedy: Remedy, case: Case) -> torch.Tensor:
    """W' - W0 in double precision."""
    base, tuned = one.base[case.matrix.name], one.tuned[case.matrix.name]
    return remedy.change(case).applied_to(Pair(base, tuned)) - base


def test_complement_shrinks_outside_of_the_intruders_to_the_norm_that_they_leave(by_adapter: Tuned) -> None:
    control, existing = Complement(mild := 0.9), 0
    for case in cases_of(by_adapter, control):
        name = case.matrix.name
        base, tuned, update = by_adapter.base[name], by_adapter.tuned[name], by_adapter.update(name)
        places = places_of_intruders(base, tuned)
        if not places:
            continue
        y = torch.linalg.svd(tuned)[0][:, places]
        inside, after = y @ (y.mT @ update), scaled(tuned, places, mild) - base
        if inside.norm() <= after.norm() <= update.norm():
            found = left_of(by_adapter, control, case)
            of_inside = inside.norm() ** 2
            a = 1 - math.sqrt((after.norm() ** 2 - of_inside) / (update.norm() ** 2 - of_inside))
            torch.testing.assert_close(found, (1 - a) * update + a * inside, rtol=1e-3, atol=1e-5)
            assert float(found.norm()) == pytest.approx(float(after.norm()), rel=1e-4)
            existing += 1
        else:
            assert not control.exists(case)
            assert control.change(case) == Change()
    assert existing


def test_mitigate_says_in_how_many_matrices_there_is_no_complement(by_adapter: Tuned, tmp_path: Path) -> None:
    given = {"control": "complement", "out": tmp_path / "out", "compute": NO_CACHE}
    result = mitigated(by_adapter.folder, scale=3, **given)
    # Three times the intruders is more than the update has: nowhere.
    assert not any(matrix.exists for matrix in result.matrices)
    said = f"{len(result.matrices)} matrices have no such control and stay as they were"
    assert said in mitigation_lines(result)


@pytest.mark.parametrize(
    "remedy", [ScaledIntruders(SCALE), Truncate(0.3), Project(2), Trim(0.3)], ids=lambda remedy: remedy.name
)
def test_matched_controls_have_the_norm_and_the_output_of_the_remedy(of_each: Tuned, remedy: Remedy) -> None:
    for case in cases_of(of_each, remedy)[:5]:
        update, after = of_each.update(case.matrix.name), left_of(of_each, remedy, case)
        size = float(after.norm() / update.norm())
        inputs = torch.randn(50, update.shape[1], generator=torch.Generator().manual_seed(3))
        outputs = [(inputs.double() @ one.mT).square().sum() for one in (after, update)]
        for control, wanted in (
            (EqualNorm(remedy), size * update),
            (EqualSize(remedy), after / size),
            (EqualOutput(remedy, {case.matrix.name: inputs}), math.sqrt(outputs[0] / outputs[1]) * update),
        ):
            torch.testing.assert_close(left_of(of_each, control, case), wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "strength"),
    [
        ("heads", 0.5), ("layers", 0.5), ("lines", 0.2), ("truncate", 0.5), ("trim", 0.3), ("project", 3),
        ("directions", 3), ("budget", 0.5),
    ],
)  # fmt: skip
def test_random_controls_draw_as_many_by_seed(by_adapter: Tuned, name: str, strength: float) -> None:
    remedy = published_remedy(name, strength)
    matrices, drawn = audited(by_adapter.folder), []
    for seed in (1, 1, 2, 3):
        control = at_random(remedy, seed, list(matrices.read([matrices.fitted(remedy)])))
        fitted = matrices.fitted(control)
        drawn.append([left_of(by_adapter, fitted, case) for case in cases_of(by_adapter, fitted)])
    assert all(map(torch.equal, drawn[0], drawn[1]))
    assert any(not all(map(torch.equal, drawn[0], other)) for other in drawn[2:])
    if name in ("trim", "heads"):
        fitted = matrices.fitted(remedy)
        chosen = [left_of(by_adapter, fitted, case) for case in cases_of(by_adapter, fitted)]
        zeros = [sum(int((one.abs() < 1e-6).sum()) for one in models) for models in (chosen, drawn[0])]
        assert zeros[0] == pytest.approx(zeros[1], rel=0.02)
    assert at_random(Interpolate(0.5), 0, []) is None


def test_a_random_budget_leaves_the_same_factors_on_other_matrices(by_adapter: Tuned) -> None:
    cases = cases_of(by_adapter, Budget(0.5))

    def factors(remedy: Remedy | None) -> list[float]:
        return [
            float(left_of(by_adapter, remedy, case).norm() / by_adapter.update(case.matrix.name).norm())
            for case in cases
        ]

    chosen, drawn = factors(Budget(0.5)), factors(at_random(Budget(0.5), 1, cases))
    assert sorted(drawn) == pytest.approx(sorted(chosen), rel=1e-4)
    assert drawn != pytest.approx(chosen, rel=1e-2)


def test_random_directions_are_of_the_bases_at_the_tuned_values(in_full: Tuned) -> None:
    """By two dense decompositions: what is added are k of the first 2k differences, whichever."""
    k = 2
    remedy = at_random(Directions(k), 3, [])
    for case in cases_of(in_full, remedy)[:6]:
        name = case.matrix.name
        x, _, z = torch.linalg.svd(in_full.base[name], full_matrices=False)
        y, s, v = torch.linalg.svd(in_full.tuned[name], full_matrices=False)
        terms = [s[i] * (torch.outer(x[:, i], z[i]) - torch.outer(y[:, i], v[i])) for i in range(2 * k)]
        added = left_of(in_full, remedy, case) - in_full.update(name)
        sums = [added - terms[i] - terms[j] for i in range(2 * k) for j in range(i)]
        assert min(float(one.norm()) for one in sums) < 1e-3 * float(s[0])
