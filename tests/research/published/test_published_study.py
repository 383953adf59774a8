"""The studies whose data are in the documentation: complete, and what their tables say is what was published."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pyarrow.parquet import read_schema

from intruders.settings import settings_of
from intruders.training.finetune_config import FinetuneConfig
from intruders_research.claims.every_claim import conclude
from intruders_research.pages.study_page import write_study_report
from intruders_research.published.published_study import PublishedStudy
from tests.docs.pages import DOCS, ROOT

DATA = DOCS / "results" / "data"
STUDIES = sorted(file.parent for file in DATA.glob("*/published.json"))
LARGEST = 2**20  # bytes of one file: tables, and never weights


def test_every_column_is_described() -> None:
    page = (DATA / "README.md").read_text()
    settings = set(settings_of(FinetuneConfig))
    ends = ("_low", "_high")
    for study in STUDIES:
        for file in study.glob("*.parquet"):
            assert f"`{file.name}`" in page
            columns = {column for column in read_schema(file).names if not column.endswith(ends)} - settings
            assert [column for column in sorted(columns) if f"`{column}`" not in page] == [], file


def test_an_outsider_gets_the_same_gains() -> None:
    """The script of plain pandas against the table: every gain again to the printed digit, and the missed scores."""
    names = ("replay-or-heal", "which-remedy-again", "the-usual-recipe")
    said = {name: run_script("outsider.py", DATA / name) for name in names}
    gains = re.findall(r": (\S+), again (\S+)\n", said["replay-or-heal"] + said["which-remedy-again"])
    assert len(gains) == 21
    assert [again for _, again in gains] == [gain for gain, _ in gains]
    assert "missed scores: 3 of 30 runs" in said["the-usual-recipe"]


def run_script(name: str, *arguments: Path) -> str:
    command = [sys.executable, str(ROOT / "examples" / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("study", STUDIES, ids=lambda folder: folder.name)
def test_published_study(study: Path, tmp_path: Path) -> None:
    published = PublishedStudy.load(study)
    assert published.runs
    files = [file for file in study.iterdir() if file.name != "report.html"]
    assert {file.suffix for file in files} <= {".parquet", ".json", ".yaml", ".md"}
    assert max(file.stat().st_size for file in files) < LARGEST
    # The verdicts follow from the tables.
    for file in files:
        (tmp_path / file.name).write_bytes(file.read_bytes())
    conclude(tmp_path, json.loads((study / "study.json").read_text())["analyses"])
    found, there = (json.loads((folder / "findings.json").read_text()) for folder in (tmp_path, study))
    assert found == within_rounding(there)
    (page,) = write_study_report(study, tmp_path / "page.html")
    assert published.study_digest in page.read_text()


def within_rounding(value: Any) -> Any:
    """The JSON value, equal to any of the same words and counts whose other numbers are the same to 1e-6.

    The last digits of a sum depend on the order in which a processor adds.
    """
    if isinstance(value, dict):
        return {key: within_rounding(item) for key, item in value.items()}
    if isinstance(value, list):
        return [within_rounding(item) for item in value]
    return pytest.approx(value, rel=1e-6, abs=1e-6) if isinstance(value, float) else value
