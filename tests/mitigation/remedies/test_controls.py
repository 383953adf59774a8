"""Controls change what they claim to, by as much as they claim."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from intruders.audits.result.records import AuditedMatrix, UpdateSize, Vector
from intruders.linalg.operators import Dense
from intruders.mitigation.mitigate import mitigate
from intruders.mitigation.remedies.every_remedy import remedy_named
from intruders.mitigation.remedies.position import positions_of
from intruders.mitigation.remedies.remedy import Case
from intruders.mitigation.remedies.remedy_table import CONTROLS
from tests.checkpoints.models import saved
from tests.mitigation.hot import (
    deviation,
    merged_from,
    places_of_intruders,
    scaled,
)

SCALE = 0.3


def mitigated(folder: Path, out: Path, base: nn.Module, control: str, **settings: object):  # type: ignore[no-untyped-def]
    result = mitigate(folder / "base", folder / "tuned", scale=SCALE, control=control, out=out, **settings)  # type: ignore[arg-type]
    return result, merged_from(out, copy.deepcopy(base))


@pytest.mark.parametrize("control", ["random", "neighbours"])
def test_other_vectors_are_scaled_by_the_same_lambda(
    tmp_path: Path, folder: Path, base: nn.Module, tuned: dict[str, Tensor], control: str
) -> None:
    result, found = mitigated(folder, tmp_path / "out", base, control)
    assert len(result.matrices) > 8
    for matrix in result.matrices:
        intruders = places_of_intruders(base.state_dict()[matrix.name], tuned[matrix.name])
        assert not set(intruders) & set(matrix.scaled)
        assert len(matrix.scaled) == min(len(intruders), 10 - len(intruders))
        wanted = scaled(tuned[matrix.name], matrix.scaled, SCALE)
        assert deviation(found[matrix.name], wanted) < 1e-3, matrix.name


def test_random_is_drawn_by_seed(tmp_path: Path, folder: Path, base: nn.Module) -> None:
    drawn = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        result, _ = mitigated(folder, tmp_path / name, base, "random", seed=seed)
        drawn.append([matrix.scaled for matrix in result.matrices])
    assert drawn[0] == drawn[1] != drawn[2]


def test_update_scales_the_leading_directions_of_the_update(
    tmp_path: Path, folder: Path, base: nn.Module, tuned: dict[str, Tensor]
) -> None:
    result, found = mitigated(folder, tmp_path / "out", base, "update")
    for matrix in result.matrices:
        before = base.state_dict()[matrix.name].double()
        change = tuned[matrix.name].double() - before
        wanted = before + scaled(change, list(range(min(matrix.intruders, 2))), SCALE)
        assert deviation(found[matrix.name], wanted) < 1e-3, matrix.name


def test_shrink_has_the_norm_of_the_mitigated_update(
    tmp_path: Path, folder: Path, base: nn.Module, tuned: dict[str, Tensor]
) -> None:
    result, found = mitigated(folder, tmp_path / "out", base, "shrink")
    for matrix in result.matrices:
        before = base.state_dict()[matrix.name].double()
        change = tuned[matrix.name].double() - before
        places = places_of_intruders(base.state_dict()[matrix.name], tuned[matrix.name])
        norm = (scaled(tuned[matrix.name], places, SCALE) - before).norm()
        wanted = before + change * norm / change.norm()
        assert deviation(found[matrix.name], wanted) < 1e-3, matrix.name
        assert float((found[matrix.name].double() - before).norm()) == pytest.approx(float(norm), rel=1e-4)
        assert matrix.update_norm_after == pytest.approx(float(norm), rel=1e-4)


@pytest.mark.parametrize("control", CONTROLS)
def test_matrices_without_intruders_stay_and_scale_one_changes_nothing(
    tmp_path: Path, folder: Path, base: nn.Module, tuned: dict[str, Tensor], control: str
) -> None:
    result, found = mitigated(folder, tmp_path / "out", base, control)
    changed = {matrix.name for matrix in result.matrices}
    assert changed == {matrix.name for matrix in result.before.matrices if matrix.intruders}
    for name in tuned.keys() - changed:
        assert deviation(found[name], tuned[name]) < 1e-6
    same = mitigate(folder / "base", folder / "tuned", scale=1, control=control, out=tmp_path / "same")
    assert same.matrices == []
    assert same.after is not None
    assert same.after.intruders == same.before.intruders


def test_controls_on_a_dense_update(tmp_path: Path, base: nn.Module) -> None:
    model = copy.deepcopy(base)
    generator = torch.Generator().manual_seed(0)
    weight = model.get_parameter("model.layers.0.mlp.up_proj.weight")
    u, v = (torch.randn(side, generator=generator) for side in weight.shape)
    noise = 0.002 * torch.randn(weight.shape, generator=generator)
    before = weight.data.clone()
    weight.data = (
        before + 2 * torch.outer(u, v) * torch.linalg.matrix_norm(before, 2) / (u.norm() * v.norm()) + noise
    )
    tuned = weight.data.double()
    saved(base, tmp_path / "base")
    saved(model, tmp_path / "tuned")
    from safetensors.torch import load_file

    change = tuned - before.double()
    wanted = {
        "update": before.double() + scaled(change, [0], SCALE),
        "shrink": before.double()
        + change * (scaled(tuned, [0], SCALE) - before.double()).norm() / change.norm(),
        "neighbours": scaled(tuned, [1], SCALE),
    }
    for control, matrix in wanted.items():
        mitigate(tmp_path / "base", tmp_path / "tuned", scale=SCALE, control=control, out=tmp_path / control)
        found = load_file(tmp_path / control / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
        assert deviation(found, matrix) < 1e-3


def made(intruders: set[int], k: int = 6) -> AuditedMatrix:
    vectors = [
        Vector(j, float(k - j), (0.0, 0.1) if j in intruders else (0.9, 1.0), j in intruders, "exact", False)
        for j in range(k)
    ]
    return AuditedMatrix(
        "w", (8, 8), 1, vectors, UpdateSize(1, 1, 1, 0, 1), [1.0], np.zeros((1, k), np.float32)
    )


@pytest.mark.parametrize(
    ("intruders", "neighbours"),
    [
        ({0}, [1]),
        ({2}, [1]),
        ({1, 2}, [0, 3]),
        ({0, 1, 2}, [3, 4, 5]),
        ({5}, [4]),
        (set(range(6)), []),
        ({0, 1, 2, 3}, [4, 5]),
    ],
)
def test_neighbours_are_the_nearest_in_rank(intruders: set[int], neighbours: list[int]) -> None:
    assert list(remedy_named("neighbours", 0.5, 0).scaled(made(intruders)).indices) == neighbours
    drawn = remedy_named("random", 0.5, 3).scaled(made(intruders)).indices
    assert len(drawn) == len(neighbours)
    assert not set(drawn) & intruders


@pytest.mark.parametrize("control", ["random", "neighbours"])
@pytest.mark.parametrize(
    ("intruders", "exists"), [({0, 1}, True), (set(range(5)), True), (set(range(6)), False)]
)
def test_a_control_exists_where_a_vector_is_none_of_the_intruders(
    control: str, intruders: set[int], exists: bool
) -> None:
    matrix = made(intruders)
    case = Case(matrix, Dense(torch.eye(8)), {}, positions_of(["w"])["w"])
    assert remedy_named(control, 0.5, 0).exists(case) is exists
