"""The studies whose data are in the documentation: complete, and what their tables say is what was published."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from intruders_research.claims.every_claim import conclude
from intruders_research.pages.write_report import write_report
from intruders_research.published.published_study import PublishedStudy
from tests.docs.pages import DOCS
from tests.house.test_contract import refused_with_its_number

DATA = DOCS / "results" / "data"
STUDIES = sorted(file.parent for file in DATA.glob("*/published.json"))
LARGEST = 2**20  # bytes of one file: tables, and never weights


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
    assert (tmp_path / "findings.json").read_text() == (study / "findings.json").read_text()
    (page,) = write_report([study], tmp_path / "page.html")
    assert published.study_digest in page.read_text()


def test_a_newer_publication_is_refused_with_its_number(tmp_path: Path) -> None:
    shutil.copytree(DATA / "minilm", tmp_path / "minilm")
    assert PublishedStudy.load(tmp_path / "minilm")
    refused_with_its_number(
        lambda: PublishedStudy.load(tmp_path / "minilm"), tmp_path / "minilm" / "published.json"
    )
