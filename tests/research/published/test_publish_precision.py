"""A study that is continued on a machine where ``auto`` is another precision trains as its finished runs did."""

import json
from pathlib import Path
from typing import Any

import pytest

from intruders.cli.study import study_progress
from intruders.studies.run_study import StudyProgress
from intruders.studies.runs import Run
from intruders.training import arguments
from intruders_research.published.publish import publish_study
from tests.research.parsed import parsed, run_study
from tests.studies.tiny_study import BRIEF, tiny_study


def of_two_seeds(llama: Path) -> dict[str, Any]:
    lora = [{"method": "lora", "rank": 1, "alpha": 16, "lr": 0.5}]
    return tiny_study(llama, methods=lora, measure=BRIEF, precision="auto", seeds=[0, 1], audit_steps=None)


def trained_in(study: Path) -> dict[str, str]:
    """What the records of the trainings say, by seed."""
    records = [json.loads(file.read_text()) for file in study.glob("runs/*/model/run.json")]
    return {record["config"]["seed"]: record["precision"] for record in records}


def of_seed(document: dict[str, Any], *seeds: int) -> Any:
    document["experiments"]["matched"]["seeds"] = list(seeds)
    return parsed(document)


def test_later_runs_are_trained_as_the_finished_ones(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    document = of_two_seeds(llama)
    monkeypatch.setattr(arguments, "precision_here", lambda: "fp32")
    run_study(of_seed(document, 0), tmp_path / "here")
    publish_study(tmp_path / "here", tmp_path / "published")
    monkeypatch.setattr(arguments, "precision_here", lambda: "bf16")

    with study_progress() as progress:
        run_study(of_seed(document, 0, 1), tmp_path / "here", progress=progress)
    assert trained_in(tmp_path / "here") == {0: "fp32", 1: "fp32"}
    said = "runs whose precision is auto are trained in fp32, as the finished ones"
    assert said in capsys.readouterr().err

    # One that the file names stays.
    document["experiments"]["matched"]["precision"] = "bf16"
    run_study(of_seed(document, 2), tmp_path / "here")
    assert trained_in(tmp_path / "here") == {0: "fp32", 1: "fp32", 2: "bf16"}

    # The published record tells it too, on a machine that has none of the models.
    outcome = run_study(
        of_seed(of_two_seeds(llama), 0, 1), tmp_path / "elsewhere", published=tmp_path / "published"
    )
    assert len(outcome.taken_over) == 1
    assert trained_in(tmp_path / "elsewhere") == {1: "fp32"}
    publish_study(tmp_path / "elsewhere", tmp_path / "all")
    assert deviations_in(tmp_path / "all") == []


def test_a_published_study_of_two_precisions_tells_it(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of two machines of a cluster, which begin at the same time."""
    at_work = ["fp32", "bf16"]

    def on_run(run: Run, status: str, done: int, total: int) -> None:
        at_work.pop(0)

    monkeypatch.setattr(arguments, "precision_here", lambda: at_work[0])
    study = parsed(of_two_seeds(llama))
    run_study(study, tmp_path / "runs", progress=StudyProgress(on_run=on_run))
    assert trained_in(tmp_path / "runs") == {0: "fp32", 1: "bf16"}
    publish_study(tmp_path / "runs", tmp_path / "published")
    assert deviations_in(tmp_path / "published") == [
        "precision is auto, which differs between machines: 1 in fp32 and 1 in bf16 were trained"
    ]


def deviations_in(folder: Path) -> list[str]:
    deviations: list[str] = json.loads((folder / "published.json").read_text())["deviations"]
    return deviations
