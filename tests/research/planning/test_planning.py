"""Seeds and hours of a study that has not run, from what an earlier one measured."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pandas as pd
import pytest

from intruders.studies.runs import Run, expand
from intruders.studies.study import study_from_text
from intruders.studies.study_folder import StudyFolder
from intruders.studies.tables import settings_row, to_parquet
from intruders_research.claim_names import CLAIMS
from intruders_research.planning import earlier_times
from intruders_research.planning.earlier_times import time_lines
from intruders_research.planning.power import earlier_spread, power_lines
from tests.research.parsed import parsed
from tests.research.planted import matched, study_folder

EXPERIMENT: dict[str, Any] = {
    "base": "b", "task": "word-problems", "steps": 100, "match": "accuracy=0.9",
    "methods": [{"method": "lora", "rank": [1, 2]}, {"method": "full"}],
}  # fmt: skip


def document(**changes: Any) -> dict[str, Any]:
    return {"name": "planned", "seeds": [0, 1], "experiments": {"m": EXPERIMENT}} | changes


@pytest.fixture
def earlier(tmp_path: Path) -> tuple[Path, list[dict[str, Any]]]:
    """The folder of a study of which the tables are there: LoRA has 15 intruders per 100 vectors more than full."""
    rows = matched()
    return study_folder(tmp_path / "earlier", document(), runs=rows), rows


def test_the_spread_of_an_earlier_study_is_that_of_its_seeds(
    earlier: tuple[Path, list[dict[str, Any]]],
) -> None:
    folder, rows = earlier
    found = earlier_spread(str(folder), "structure")
    assert found is not None
    differences = []
    for seed in range(3):
        counts = {(row["method"], row["rank"]): row["intruders"] / 2 for row in rows if row["seed"] == seed}
        lora = [count for (method, _), count in counts.items() if method == "lora"]
        differences.append(np.mean(lora) - counts["full", None])
    assert found[1] == pytest.approx(np.std(differences, ddof=1))
    study = parsed(document(power={"structure": {"spread_from": str(folder)}}))
    line, *others = power_lines(study)
    assert len(others) == len(CLAIMS) - 1
    assert all("no effect is planned, so that the seeds it needs are unknown" in other for other in others)
    assert line.startswith(
        f"power: structure: 2 seeds needed for an effect of {abs(found[0].estimate):g} at a spread"
    )
    assert line.endswith("planned: 2")


def with_methods(*methods: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return {"base": "b", "task": "words", "steps": 10, "methods": list(methods)} | settings


FEW = [{"method": "lora", "rank": [1, 2]}, {"method": "full"}]
# Two bases by two tasks by three settings.
GRID = with_methods(*FEW, base=["a", "b"], task=["words", "others"])
OF_RANKS = with_methods({"method": "lora", "rank": [1, 2, 4, 8, 16, 32]})
FORGETTING = {"forgetting": {"effect": 0.65}}
SPREAD = {"effect": 1, "spread": 1}


@pytest.mark.parametrize(
    ("power", "experiments", "begins", "says"),
    [
        # (2.262 + 0.883) / sqrt(10) = 0.995 for ten seeds, and (2.306 + 0.889) / 3 = 1.065 for nine.
        (
            {"structure": SPREAD},
            {"m": EXPERIMENT},
            "structure: 10 seeds needed for an effect of 1 at a spread of 1",
            "planned: 2, which is fewer",
        ),
        ({"rank": {"spread_from": "/none"}}, {"m": EXPERIMENT}, "rank: ", "no study in"),
        # 3 + (1 + 0.65^2 / 2) ((1.95996 + 0.84162) / atanh 0.65)^2 = 18.8
        (
            FORGETTING,
            {"m": EXPERIMENT},
            "forgetting: 19 settings needed for a rank correlation of 0.65",
            "planned: 3, which is fewer; 2 seeds planned",
        ),
        (
            {"forgetting": {"effect": 0.01}},
            {"m": EXPERIMENT},
            "forgetting: more than 1000 settings needed for a rank correlation of 0.01",
            "planned: 3, which is fewer",
        ),
        (
            {"predictors": {"effect": 0.65}},
            {"m": EXPERIMENT},
            "predictors: 19 settings needed for a rank correlation of 0.65",
            "the effect that decides is a difference of two, which mostly needs more settings",
        ),
        # A correlation is over the settings of one base and task, of all experiments together.
        (FORGETTING, {"m": GRID}, "forgetting: ", "planned: 3, which is fewer"),
        (FORGETTING, {"m": GRID, "n": GRID | {"lr": 3e-3}}, "forgetting: ", "planned: 6, which is fewer"),
        # As for seeds: 10 at an effect of one spread.
        (
            {"places": SPREAD},
            {"m": OF_RANKS},
            "places: 10 settings needed for an effect of 1 at a spread of 1 over settings (given)",
            "planned: 6, which is fewer",
        ),
    ],
)
def test_a_plan_counts_what_its_claim_is_measured_over(
    power: dict[str, Any], experiments: dict[str, Any], begins: str, says: str
) -> None:
    study = parsed(document(power=power, analyses=list(power), experiments=experiments))
    (line,) = power_lines(study)
    assert line.startswith(f"power: {begins}")
    assert says in line
    assert ("difference" in line) is ("predictors" in power)


def done(path: Path, *finished: tuple[Run, int, float, float]) -> None:
    """The table and the records of finished runs: their steps, and the seconds of their training and measures."""
    path.mkdir(exist_ok=True)
    folder, rows = StudyFolder(path), []
    folder.keep(parsed(document()), [run for run, *_ in finished])
    for run, steps, training, measures in finished:
        stages = {
            "train": {"seconds": training + 5},
            "audit": {"seconds": 0.4 * measures},
            "evaluate": {"seconds": 0.6 * measures},
        }
        folder.run(run.id).mkdir(parents=True, exist_ok=True)
        (folder.run(run.id) / "run.json").write_text(json.dumps({"schema": 1, "stages": stages}))
        row = {"run_id": run.id, "status": "finished", "trained_steps": steps, "seconds": training}
        rows.append(settings_row(run) | row)
    folder.table("runs").write_bytes(to_parquet("runs", rows))


def test_time_is_told_from_the_runs_that_are_most_alike(tmp_path: Path) -> None:
    of_eight_rows = {"match": None, "batch_size": 4, "gradient_accumulation_steps": 2}
    runs = expand(parsed(document(experiments={"m": EXPERIMENT | of_eight_rows})))
    earlier = tmp_path / "earlier"
    # lora r=1, lora r=2, full
    done(earlier, (runs[0], 50, 50.0, 1000.0), (runs[1], 50, 100.0, 1000.0), (runs[2], 50, 200.0, 1000.0))
    (line,) = time_lines(runs, [str(earlier)])
    # Two seeds. LoRA: a median of 1.5 s a step, full 4 s, each for 100 steps and measures of 1,000 s.
    hours = 2 * (2 * (150 + 1000) + 400 + 1000) / 3600
    assert line.startswith(
        f"time: about {hours:.1f} hours for 6 runs, one after another and each trained for all"
    )
    other = expand(parsed(document(experiments={"m": EXPERIMENT | {"base": "other"}})))
    assert (
        list(time_lines(other, [str(earlier)]))[1]
        == "time: 6 runs more, of which no earlier run has the base, or the number of steps is unknown"
    )
    assert list(time_lines(runs, [])) == []
    by_rows = EXPERIMENT | {
        "task": "sst2",
        "epochs": 2.0,
        "steps": None,
        "max_train_samples": 16_000,
        "match": None,
    }
    by_epochs = expand(parsed(document(experiments={"m": by_rows | {"batch_size": 16}})))
    (line,) = time_lines(by_epochs, [str(earlier)])
    # Two epochs of 1,000 steps, at the median of 1, 2 and 4 s over the runs of another task, and measures of 1,000 s.
    # A step has twice as many rows as theirs.
    assert line.startswith(f"time: about {6 * (2000 * 4 + 1000) / 3600:.1f} hours for 6 runs")


def test_a_run_that_stops_at_a_score_counts_with_the_steps_that_its_setting_took(tmp_path: Path) -> None:
    """Of the other settings, whose steps no run tells, the time is an upper bound."""
    runs = expand(parsed(document()))  # of two seeds lora r=1, lora r=2, full; up to 100 steps
    earlier = tmp_path / "earlier"
    # A step of LoRA takes 30 s, one of full fine-tuning 90 s.
    known = [(runs[0], 60, 60 * 30.0, 0.0), (runs[2], 20, 20 * 90.0, 0.0)]
    done(earlier, *known)
    line, told, unknown = time_lines(runs, [str(earlier)])
    hours = 2 * (60 * 30 + 100 * 30 + 20 * 90) / 3600
    assert (
        line
        == f"time: at most about {hours:.1f} hours for 6 runs, one after another, from the times of 2 earlier runs"
    )
    assert told.startswith(
        "time: 4 of these runs stop at a score (match) and count with the steps that earlier runs"
    )
    assert unknown.startswith(
        "time: 2 of these runs stop at a score (match) and count with all of their steps, an upper"
    )
    done(earlier, *known, (runs[1], 40, 1200.0, 0.0))
    line, told = time_lines(runs, [str(earlier)])
    assert line.startswith(f"time: about {2 * (60 * 30 + 40 * 30 + 20 * 90) / 3600:.1f} hours for 6 runs")
    assert told.startswith("time: 6 of these runs")
    at_another_score = expand(parsed(document(experiments={"m": EXPERIMENT | {"match": "accuracy=0.5"}})))
    line, unknown = time_lines(at_another_score, [str(earlier)])
    assert line.startswith(f"time: at most about {2 * 100 * (30 + 30 + 90) / 3600:.1f} hours for 6 runs")
    assert unknown.startswith(
        "time: 6 of these runs stop at a score (match) and count with all of their steps"
    )


PUBLISHED = Path(__file__).parents[3] / "docs" / "results" / "data"


def test_earlier_runs_are_looked_through_once_however_many_are_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = MagicMock(wraps=earlier_times._medians)
    monkeypatch.setattr(earlier_times, "_medians", looked)
    done(tmp_path, *((run, 50, 50.0, 10.0) for run in expand(parsed(document()))[:3]))
    planned = expand(parsed(document(experiments={"m": EXPERIMENT | {"seeds": list(range(20))}})))
    assert list(time_lines(planned, [str(tmp_path)]))
    assert looked.call_count == 1


@pytest.mark.parametrize("folder", [PUBLISHED / "the-usual-recipe", PUBLISHED])
def test_steps_of_a_published_setting_are_those_that_it_took(folder: Path) -> None:
    """Its record has the settings that are no default; the plan has all of them."""
    text = (PUBLISHED / "the-usual-recipe" / "study.yaml").read_text()
    runs = expand(study_from_text(text, name="again", where="study"))
    line, known = time_lines(runs, [str(folder)])
    assert line.startswith("time: about ")
    tables = [pd.read_parquet(file) for file in folder.rglob("runs.parquet")]
    finished = sum((table["status"] == "finished").sum() for table in tables)
    assert line.endswith(f"from the times of {finished} earlier runs")
    assert known.startswith(
        f"time: {len(runs)} of these runs stop at a score (match) and count with the steps"
    )
