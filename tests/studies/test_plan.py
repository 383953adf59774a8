"""The amount of work that a plan says, beside what is done."""

from __future__ import annotations

import pytest

from intruders.experiments.bench import ALONG_CURVE
from intruders.experiments.experiment_settings import AS_IN_THE_PAPER, SweepSettings
from intruders.experiments.intervene import _remedies
from intruders.studies.stages import models_of_sweep


@pytest.mark.parametrize(
    "sweep",
    [
        SweepSettings(),
        AS_IN_THE_PAPER,
        SweepSettings(scales=(0.0, 1.0, 0.5), controls=("interpolate", "shrink-output", "shrink", "shrink")),
        SweepSettings(controls=("intruders", "random")),
    ],
)
def test_the_models_of_a_sweep_are_those_that_it_measures(sweep: SweepSettings) -> None:
    curve = len(ALONG_CURVE) if "interpolate" in sweep.controls else 0
    assert models_of_sweep(sweep) == 1 + curve + len(_remedies(sweep, 0, {}))
