"""The comparison of remedies as a measure of a study: run, stopped, resumed, and in the tables."""

import json
from pathlib import Path
from typing import Any

import pytest

from intruders.studies.results import load_results
from intruders.studies.run_study import run_study
from intruders.studies.runs import expand
from intruders.studies.stages import amounts_of
from tests.experiments.conftest import counted_measurements
from tests.studies.test_run_study import files
from tests.studies.tiny_study import BRIEF, parsed, tiny_study

MEASURE = BRIEF | {"loss_on": ["pydoc"], "max_documents": 2, "max_tokens": 64, "window": 32}


def with_remedies(llama: Path, only: list[str], **changes: Any) -> dict[str, Any]:
    compared = {"only": only, "strengths": 1, "max_documents": 4}
    return tiny_study(llama, measure=MEASURE | {"remedies": compared}, audit_steps=None, **changes)


@pytest.fixture(scope="module")
def done(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study") / "out"
    outcome = run_study(parsed(with_remedies(llama, ["lines", "trim", "surgery"])), out)
    assert (outcome.finished, outcome.failed) == (2, {})
    return out


def test_every_run_has_its_points_and_its_reasons_in_the_table(done: Path) -> None:
    results = load_results(done)
    lora, full = results.runs["run_id"]
    assert set(results.remedies["run_id"]) == {lora, full}
    for run_id, of_run in results.remedies.groupby("run_id"):
        curve = of_run[(of_run["remedy"] == "interpolate") & (of_run["share"] == "report")]
        assert sorted(curve.loc[~curve["chosen"], "strength"]) == [i / 10 for i in range(11)]
        assert set(of_run.loc[of_run["chosen"], "remedy"]) == {"interpolate", "lines", "trim"}
        controls = of_run.loc[(of_run["remedy"] == "trim"), "control"].dropna()
        assert {"shrink", "resized", "random 1", "random 3"} <= set(controls)
        (reason,) = of_run["reason"].dropna()
        wanted = "has rank 1" if run_id == lora else "has no low rank"
        assert wanted in reason
        assert of_run.loc[of_run["reason"].notna(), "remedy"].item() == "surgery"


def test_a_run_that_is_stopped_resumes_within_the_comparison(
    done: Path, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    calls = counted_measurements(monkeypatch)
    calls.left = 15
    lora = [{"method": "lora", "rank": 1, "alpha": 16, "lr": 0.5}]
    study = with_remedies(llama, ["lines", "trim", "surgery"], methods=lora)
    with pytest.raises(KeyboardInterrupt):
        run_study(parsed(study), out)
    (folder,) = (out / "runs").iterdir()
    assert not (folder / "remedies" / "remedies.json").exists()
    before = files(folder / "model")
    calls.left = -1
    outcome = run_study(parsed(study), out, resume=True)
    assert (outcome.finished, outcome.failed) == (1, {})
    assert files(folder / "model") == before
    whole = len(list((done / "runs" / folder.name / "remedies" / "evaluations").iterdir()))
    assert 15 < calls.made <= whole
    ours, theirs = (
        json.loads((place / "runs" / folder.name / "remedies" / "remedies.json").read_text())
        for place in (out, done)
    )
    assert [one["chosen"] and one["chosen"]["loss"] for one in ours["remedies"]] == [
        one["chosen"] and one["chosen"]["loss"] for one in theirs["remedies"]
    ]
    # Another remedy is measured besides, and what is there stays.
    calls.made = 0
    run_study(parsed(with_remedies(llama, ["lines", "layers"], methods=lora)), out)
    assert 0 < calls.made < 15
    assert files(folder / "model") == before
    assert set(load_results(out).remedies["remedy"]) == {"interpolate", "lines", "layers"}


def test_the_plan_counts_comparisons(llama: Path) -> None:
    amounts = amounts_of(expand(parsed(with_remedies(llama, ["lines"]))))
    assert "comparisons of remedies: at most 1 strength in each of 2 runs" in amounts
