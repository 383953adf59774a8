"""What the stages of a study promise to the others: their files, settings and amounts."""

from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from intruders.experiments.bench import ALONG_CURVE
from intruders.experiments.experiment_settings import AS_IN_THE_PAPER, SweepSettings
from intruders.experiments.intervene import _remedies
from intruders.studies.experiment_stages import models_of_sweep
from intruders.studies.runs import expand
from intruders.studies.stage import Stage
from intruders.studies.stages import STAGES, stages_of
from tests.studies.tiny_study import FULL, parsed, tiny_study


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_store_brings_something_of_every_result(stage: Stage) -> None:
    """The tables take a stage for missing whose results are not here, and another machine has only these files."""
    for made in stage.results:
        assert any(file == made or PurePosixPath(made) in PurePosixPath(file).parents for file in stage.files)


def test_the_energy_of_outputs_is_measured_again_for_other_matrices(tmp_path: Path) -> None:
    """It is a mean over the matrices that the audit selects; records of runs without a selection stay as they were."""

    def settings(**audit: object) -> dict[str, Any]:
        measure = {"loss_on": ["pydoc"], "output_energy": True, "audit": audit}
        study = tiny_study(tmp_path / "llama", task="word-problems", measure=measure, methods=[FULL])
        [run] = expand(parsed(study))
        return {stage.name: stage.settings(run) for stage in stages_of(run)}

    assert settings(k=4)["outputs"] == settings(k=5)["outputs"] == settings()["evaluate"]
    assert settings(include=["*.q_proj.*"])["outputs"] == settings()["evaluate"] | {"include": ["*.q_proj.*"]}


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
