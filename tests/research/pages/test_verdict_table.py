"""One table of several studies' verdicts: every answer a row, and what failed or was not run listed."""

import json
from pathlib import Path
from typing import Any

import pytest

from intruders.studies.results import load_results
from intruders_research.claims.every_claim import analyse_all
from intruders_research.pages.verdict_table import verdict_table
from tests.research.planted import matched, study_folder

STRUCTURE: dict[str, Any] = {"analyses": ["structure"]}


@pytest.fixture
def studies(tmp_path: Path) -> list[Path]:
    # Of 20241129 six digits would be 2.02411e+07.
    rows = [row | {"seed": row["seed"] + 20241129} for row in matched(effect=1.0)]
    rows[0] |= {"status": "failed", "error": "out | of memory"}
    rows[1] |= {"stopped_by": "steps"}
    rows[2] |= {"status": "pending"}
    return [
        study_folder(tmp_path / "one", {"analyses": ["structure", "sequence"]}, runs=rows),
        study_folder(tmp_path / "two", STRUCTURE, runs=matched(effect=-1.0, task="news")),
    ]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").replace("\\|", "/").split("|")]


def test_every_answer_is_a_row_and_runs_that_did_not_reach_their_score_are_listed(
    studies: list[Path],
) -> None:
    lines = verdict_table(studies)
    table = [cells(line) for line in lines if line.startswith("|")]
    assert table[0][:3] == ["claim", "model and task", "verdict"]
    structure = {row[1]: row for row in table[2:] if row[0] == "Structure"}
    assert structure["tiny on words"][2] == "*supported*"
    assert structure["tiny on news"][2] == "*contradicted*"
    (finding,) = analyse_all(load_results(studies[1]), ["structure"])
    answer = finding.answers[0]
    text = f"LoRA minus full: {answer.estimate:+.2f} [{answer.low:+.2f}, {answer.high:+.2f}]; above 0"
    assert structure["tiny on news"][3].endswith(text)
    assert structure["tiny on news"][4] == "3"
    assert structure["tiny on news"][5] == f"`intruders study {studies[1]}/study.yaml --out {studies[1]}`"
    (sequence,) = [row for row in table if row[0] == "Tasks in sequence"]
    assert sequence[2].startswith("*not run*: this needs finished runs of `kind: sequence`")
    assert all(len(row) == 6 for row in table)
    text = "\n".join(lines)
    ids = [row["run_id"] for row in matched()]
    assert f"`{studies[0]}`: 16 of 18 runs finished, 3 seeds." in text
    assert f"- 1 failed: {ids[0]} (out | of memory)" in text
    assert "- 1 did not reach their score: tiny on words: lora r=2 alpha=2r lr=0.0001 (seed 20241129)" in text
    assert "- 1 not run yet, of seeds 20241129; the command of the table runs them" in text


def test_the_time_of_a_study_is_that_of_all_stages_of_its_finished_runs(studies: list[Path]) -> None:
    """Two finished runs took an hour and 20 minutes, and half an hour; the failed one does not count."""
    failed, missed, pending, other = [row["run_id"] for row in matched()][:4]
    for run, stages in {
        failed: {"train": 9000.0},
        missed: {"train": 3600.0, "evaluate": 1200.0},
        other: {"train": 1800.0},
    }.items():
        record = {"schema": 1, "stages": {name: {"seconds": seconds} for name, seconds in stages.items()}}
        (studies[0] / "runs" / run).mkdir(parents=True)
        (studies[0] / "runs" / run / "run.json").write_text(json.dumps(record))
    assert pending
    assert "- trained and measured in 1 h 50 min, summed over the runs" in verdict_table(studies)


def test_a_run_below_its_score_is_told_from_those_that_reached_it(tmp_path: Path) -> None:
    """By the setting in which it differs from them, though it is the only one that is named."""
    rows = [row | {"weight_decay": 0.0} for row in matched(effect=1.0)]
    decayed = rows[0] | {"run_id": "decayed", "weight_decay": 0.1, "stopped_by": "steps"}
    text = "\n".join(verdict_table([study_folder(tmp_path / "one", STRUCTURE, runs=[*rows, decayed])]))
    assert (
        "- 1 did not reach their score: tiny on words: lora r=1 alpha=2r lr=0.0001 weight_decay=0.1 (seed 0)"
        in text
    )


def test_a_primary_that_names_no_effect_is_undecided_and_tells_the_names(tmp_path: Path) -> None:
    folder = study_folder(
        tmp_path / "one", STRUCTURE | {"primary": {"structure": "typo"}}, runs=matched(effect=1.0)
    )
    (row,) = [cells(line) for line in verdict_table([folder]) if line.startswith("| Structure")]
    (finding,) = analyse_all(load_results(folder), ["structure"])
    assert row[2].startswith(
        "*undecided* (no effect that the claim speaks of is named 'typo', as primary says; "
    )
    assert "Undecided" + row[2].removeprefix("*undecided*") == finding.verdict
