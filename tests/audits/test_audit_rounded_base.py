"""Counts against a base in half precision are those of the few lines of numpy that the published code comes to."""

import copy
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from intruders.audits.audit import audit
from intruders.audits.audit_settings import AuditSettings
from intruders.audits.fleet.audit_fleet import audit_fleet
from intruders.audits.result.audit_result import Audit
from intruders.audits.scales.critical_scales import critical_scales
from intruders.errors import SettingError
from intruders.reports.audit_command import audit_command
from tests.audits.fleet.compared_audits import medium_model
from tests.checkpoints.models import merged_weights, saved
from tests.mitigation.hot import hot_llama


def published_count(
    base: Tensor, tuned: Tensor, k: int = 10, epsilon: float = 0.5, dtype: str = "float16"
) -> int:
    """Thin SVDs of both, the base as its narrow numbers are; how many of the leading k have no cosine of epsilon."""
    rounded = base.to(getattr(torch, dtype)).double().numpy()
    x = np.linalg.svd(rounded, full_matrices=False)[0]
    y = np.linalg.svd(tuned.double().numpy(), full_matrices=False)[0][:, :k]
    return int((np.abs(x.T @ y).max(axis=0) < epsilon).sum())


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return medium_model().state_dict()


@pytest.fixture(scope="module")
def tuned() -> list[nn.Module]:
    return [hot_llama(number, gain, medium_model()) for number, gain in enumerate((0.4, 0.8, 1.2))]


@pytest.fixture(scope="module")
def folder(tuned: list[nn.Module], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models")
    saved(medium_model(), path / "base")
    for number, model in enumerate(tuned):
        saved(model, path / f"adapter-{number}")
    return path


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_counts_of_every_matrix_are_those_of_numpy(
    folder: Path, weights: dict[str, Tensor], tuned: list[nn.Module], dtype: str
) -> None:
    for number, model in enumerate(tuned):
        merged = merged_weights(copy.deepcopy(model))
        found = audit(folder / "base", folder / f"adapter-{number}", base_dtype=dtype, cache=False)
        wanted = {
            matrix.name: published_count(weights[matrix.name], merged[matrix.name], dtype=dtype)
            for matrix in found.matrices
        }
        assert {matrix.name: matrix.intruders for matrix in found.matrices} == wanted
    assert found.intruders > 10


def test_rounding_can_change_a_count() -> None:
    """Two base directions of nearly one singular value turn into others under rounding: what was one base vector and
    the tuned model keeps is then half of each of two."""
    s = np.array([4.0, 1.0, 1.0 + 1e-6])
    turn = np.linalg.qr(np.random.default_rng(5).standard_normal((3, 3)))[0]
    base = torch.tensor((turn * s) @ turn.T)
    tuned = base.clone()
    tuned += torch.tensor(0.5 * np.outer(turn[:, 1], turn[:, 1]))
    audited = partial(audit, {"up.weight": base}, {"up.weight": tuned}, k=3, cache=False)
    for epsilon in (0.75, 0.9, 0.99):
        for dtype in ("float16", "bfloat16"):
            count = audited(epsilon=epsilon, base_dtype=dtype).intruders
            assert count == published_count(base, tuned, 3, epsilon, dtype)
        assert audited(epsilon=epsilon).intruders == 0
    assert count > 0


def test_a_fleet_counts_as_the_audits_of_its_members_whose_records_know_it(
    folder: Path, tmp_path: Path
) -> None:
    adapters = [str(folder / f"adapter-{number}") for number in range(3)]
    fleet = audit_fleet(folder / "base", adapters, base_dtype="float16", out=tmp_path / "fleet")
    alone = [audit(folder / "base", path, base_dtype="float16", cache=False) for path in adapters]
    alone[0].save(tmp_path / "audit.json")
    again = Audit.load(tmp_path / "audit.json")
    assert AuditSettings.of(again).base_dtype == "float16"
    assert "--base-dtype float16" in str(audit_command(again))
    for number, one in enumerate(alone):
        of_fleet = fleet.audit(number)
        assert of_fleet.settings["base_dtype"] == "float16"
        assert [m.intruders for m in of_fleet.matrices] == [m.intruders for m in one.matrices]
    # Rows of a rounded base are not taken for those of the stored one.
    with pytest.warns(UserWarning, match="of another base, prepared text or settings"):
        plain = audit_fleet(folder / "base", adapters, out=tmp_path / "fleet")
    assert "base_dtype" not in plain.audit(0).settings


def test_other_types_and_critical_scales_refuse_it(folder: Path) -> None:
    with pytest.raises(SettingError, match="base_dtype 'float8' is not known"):
        AuditSettings(base_dtype="float8")
    with pytest.raises(SettingError, match="base_dtype is 'float16', and W0 \\+ s D has one base"):
        critical_scales(folder / "base", folder / "adapter-0", audit=AuditSettings(base_dtype="float16"))
