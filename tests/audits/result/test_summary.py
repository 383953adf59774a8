"""What reports say of several matrices at once, where one of the base's is zero."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import intruders
from intruders.audits.result.summary import by_kind, median_relative
from intruders.reports.audit import render_audit


@pytest.mark.parametrize("zero", range(5))
def test_the_median_relative_update_is_of_the_matrices_that_have_one(zero: int) -> None:
    """Wherever the one of zeros comes: a comparison with NaN orders nothing."""
    generator = torch.Generator().manual_seed(3)
    names = [f"model.layers.{layer}.q_proj.weight" for layer in range(5)]
    base = {
        name: torch.randn(40, 40, generator=generator) * (layer != zero) for layer, name in enumerate(names)
    }
    updates = {
        name: size * torch.eye(40)[:, :1] @ torch.eye(40)[1:2]
        for name, size in zip(names, (50.0, 3.0, 1.0, 20.0, 9.0), strict=True)
    }
    audit = intruders.audit(base, {name: base[name] + updates[name] for name in names}, cache=False)
    relative = [
        np.linalg.norm(updates[name].numpy(), 2) / np.linalg.norm(base[name].numpy(), 2)
        for layer, name in enumerate(names)
        if layer != zero
    ]
    wanted = pytest.approx(np.median(relative), rel=1e-3)
    assert by_kind(audit.matrices)[0].relative_update == wanted
    assert intruders.audit_fleet(base, [{n: base[n] + updates[n] for n in names}], cache=False).adapters[
        "update_relative_median"
    ].tolist() == [wanted]
    assert f"{100 * np.median(relative):.0f}" in render_audit(audit)


def test_without_a_relative_update_it_is_not_a_number() -> None:
    assert math.isnan(median_relative([]))
    base = {"model.layers.0.q_proj.weight": torch.zeros(8, 8)}
    audit = intruders.audit(base, {name: torch.eye(8) for name in base}, cache=False)
    assert math.isnan(median_relative(audit.matrices))
