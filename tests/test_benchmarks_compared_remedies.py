"""The table of published remedies: seeds of one setting are averaged, and every model has its row in the file."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compared_remedies import main

RECORD = Path(__file__).parent / "fixtures" / "schema-1" / "remedies.json"


def record(folder: Path, tuned: str, gain: float, accuracy: float) -> str:
    """The comparison in the fixtures, of another tuned model, in which trim has another gain and accuracy."""
    document: dict[str, Any] = json.loads(RECORD.read_text())
    document["tuned"]["source"] = f"runs/{tuned}"
    [trim] = [remedy for remedy in document["remedies"] if remedy["name"] == "trim"]
    trim["chosen"]["gain"] = {"estimate": gain, "low": gain - 0.1, "high": gain + 0.1}
    trim["chosen"]["accuracies"] = {document["target"]: accuracy}
    file = folder / f"{tuned}.json"
    file.write_text(json.dumps(document))
    return str(file)


def test_seeds_of_one_setting_are_averaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [("a-s0", 0.5, 1.0), ("a-s1", -0.25, 0.5), ("b", 0.125, 0.25)]
    main([*(record(tmp_path, *values) for values in given), "--csv", str(tmp_path / "models.csv")])
    lines = [line for line in capsys.readouterr().out.splitlines() if "| trim " in line]
    assert [line.split(" | ")[0] for line in lines] == ["| a, 2 seeds", "| b"]
    assert lines[0].endswith(", 0.75 | +0.125 [-0.250, +0.500] |")
    assert lines[1].endswith(", 0.25 | +0.125 [+0.025, +0.225] |")
    with (tmp_path / "models.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["remedy"] == "trim"]
    assert [(row["model"], float(row["gain"]), float(row["accuracy"])) for row in rows] == given
    # A remedy that changes nothing in a model is not a row.
    assert "dg-hard" not in (tmp_path / "models.csv").read_text()


def test_doses_are_beside_the_remedies_as_means_over_texts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "healing.csv"
    table.write_text(
        "model,text,base_loss,tuned_loss,healed_loss,tuned_task_loss,healed_task_loss,healed,gain\n"
        "a-s0,one,1,2,1,0.01,0.02,1,0.25\n"  # all of 1 nat, and half of 3: 2.5 of 4
        "a-s0,two,1,4,2.5,0.01,0.02,0.5,0.75\n"
        "b,one,1,2,1,0.01,0.02,1,0.5\n"
    )
    main([record(tmp_path, "a-s0", 0.5, 1.0), "--healed", str(table)])
    [line] = [line for line in capsys.readouterr().out.splitlines() if "| doses |" in line]
    assert line == "| a | doses | 62% | 0.0100, 0.0200 | - | +0.500 |"
