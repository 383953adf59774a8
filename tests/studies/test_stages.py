"""All that a study knows of a stage is one value."""

import json
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from intruders.experiments.bench import ALONG_CURVE
from intruders.experiments.experiment_settings import AS_IN_THE_PAPER, SweepSettings
from intruders.experiments.intervene import _remedies
from intruders.studies import stages
from intruders.studies.experiment_stages import models_of_sweep
from intruders.studies.results import load_results
from intruders.studies.run_study import run_study
from intruders.studies.runs import expand
from intruders.studies.stage import Stage, read_result
from intruders.studies.stages import STAGES, amounts_of, stages_of
from intruders.studies.tables import COLUMNS, columns_of
from tests.studies.tiny_study import BRIEF, FULL, parsed, tiny_study

# A measure as someone would add it: how many letters the run's base has in its name.
LETTERS = Stage(
    "letters",
    results=("letters.json",),
    do=lambda at: at.write("letters.json", {"letters": len(Path(at.run.base).name)}),
    row=lambda file, tables: {"letters": read_result(file)["letters"]},
    wanted=lambda measure: measure.max_examples is not None,
    settings=lambda run: {"base": run.base},
    columns={"letters": int},
    amount="letters of the base",
)


def test_a_stage_is_one_value(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_letters = (*STAGES, LETTERS)
    monkeypatch.setattr(stages, "STAGES", with_letters)
    monkeypatch.setitem(COLUMNS, "runs", columns_of(with_letters)["runs"])
    study = parsed(tiny_study(llama, measure=BRIEF, methods=[{"method": "full", "lr": 1e-3}]))
    [run] = expand(study)
    assert "letters of the base: 1 runs" in amounts_of([run])
    run_study(study, tmp_path)
    out = tmp_path / "runs" / run.id
    assert json.loads((out / "letters.json").read_text())["letters"] == len(llama.name)
    assert json.loads((out / "run.json").read_text())["stages"]["letters"]["settings"] == {"base": str(llama)}
    assert list(load_results(tmp_path).runs["letters"]) == [len(llama.name)]


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
