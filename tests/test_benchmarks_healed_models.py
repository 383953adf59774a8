"""The tables of healed models: seeds of one setting are averaged, and every text has its row."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.healed_models import main

RECORD = Path(__file__).parent / "fixtures" / "schema-1" / "heal.json"


def record(folder: Path, tuned: str, healed: float) -> str:
    """The record in the fixtures, of another tuned model and with another share healed."""
    document: dict[str, Any] = json.loads(RECORD.read_text())
    document["healing"]["tuned"] = f"runs/{tuned}"
    [point] = [point for point in document["healing"]["points"] if point["name"] == "healed"]
    for measure in point["corpora"].values():
        measure["healed"] = {"estimate": healed, "low": healed - 0.1, "high": healed + 0.1, "n": 3, "p": None}
    file = folder / f"{tuned}.json"
    file.write_text(json.dumps(document))
    return str(file)


def test_seeds_of_one_setting_are_averaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [record(tmp_path, name, share) for name, share in (("a-s0", 0.5), ("a-s1", 0.8), ("b", 0.3))]
    main([*files, "--csv", str(tmp_path / "models.csv")])
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("| a, 2 seeds |") and "65% [50%, 80%]" in line for line in lines)
    assert any(line.startswith("| b |") and "30% [20%, 40%]" in line for line in lines)
    with (tmp_path / "models.csv").open() as file:
        rows = list(csv.DictReader(file))
    texts = json.loads(RECORD.read_text())["healing"]["documents"]
    assert [row["text"] for row in rows] == [*texts, *texts, *texts]
    assert [float(row["healed"]) for row in rows[:: len(texts)]] == [0.5, 0.8, 0.3]
