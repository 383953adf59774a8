"""Verdicts of studies beside the advice that rests on them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from intruders.checkpoints.stored.locate import DEMO_MODELS
from intruders.measures.intervals import Interval
from intruders.studies.study_folder import StudyFolder
from intruders.studies.tables import COLUMNS, to_parquet
from intruders_research.advice.advise import advise
from intruders_research.advice.on_verdicts import StudyVerdict, is_on, verdicts_of
from intruders_research.claims.shared.claim import Effect, Where
from research.tests.parsed import parsed
from tests.made_up import made_up_audit
from tests.reports.advised import as_a_studys_run
from tests.studies.planted import interventions, matched


def study_folder(folder: Path, rows: list[dict[str, Any]], points: list[dict[str, Any]]) -> Path:
    """The tables of a study, as intruders study writes them."""
    folder.mkdir()
    place = StudyFolder(folder)
    experiment = {"base": "b", "task": "t", "steps": 1}
    analyses = ["structure", "intervention"]
    described = parsed({"name": folder.name, "analyses": analyses, "experiments": {"m": experiment}})
    place.keep(described, [])
    tables = {"runs": rows, "interventions": points}
    for table in COLUMNS:
        place.table(table).write_bytes(to_parquet(table, tables.get(table, [])))
    return folder


def test_verdicts_of_studies_stand_beside_the_advice_that_rests_on_them(tmp_path: Path) -> None:
    rows = matched(effect=1.0, base="llama")
    first = [row for row in rows if row["rank"] == 1]
    yes = study_folder(tmp_path / "yes", rows, interventions(first))
    no = study_folder(tmp_path / "no", rows, interventions(first, change=0.3, against=-0.2))
    other = matched(effect=1.0, base="another")
    elsewhere = study_folder(tmp_path / "elsewhere", other, [])
    audit = dataclasses.replace(made_up_audit(layers=2, intruder_rate=0.2, seed=1), base_source="llama")
    own = tmp_path / "run"
    own.mkdir()
    audit.save(own / "audit.json")
    sweep = [
        {"control": "intruders", "scale": 0.5, "measure": "loss", "on": "pydoc", "value": 2.0, "change": -0.5}
        | {"change_low": -0.6, "change_high": -0.4, "base_value": 1.0}
    ]
    (own / "intervention.json").write_text(json.dumps({"schema": 1, "skipped": None, "rows": sweep}))
    as_a_studys_run(own)
    plain = advise(own)
    found = advise(own, studies=[yes, no, elsewhere])
    assert advise(own, studies=str(yes)) == advise(own, studies=yes) == advise(own, studies=[yes])
    (before,) = [one for one in plain.advice if one.topic == "mitigation"]
    (after,) = [one for one in found.advice if one.topic == "mitigation"]
    assert after.change == before.change
    added = [text for text in after.evidence if text not in before.evidence]
    assert any(
        text.startswith(f"'{yes}', llama on words, pydoc: the claim intervention is supported: ")
        for text in added
    )
    against = [text for text in added if text.startswith(f"'{no}'")]
    assert against
    assert all("the claim intervention is contradicted: " in text for text in against)
    assert not any(str(elsewhere) in text for text in added)
    assert f"'{elsewhere}' does not apply where it is of another base: another on words" in found.notes
    assert any("the claim structure is supported" in note for note in found.notes), (
        "of this base, beside the advice"
    )
    assert any("on another task it is a lead" in note for note in found.notes)


def test_a_study_of_a_demo_model_is_of_the_model_at_its_path() -> None:
    answer = Effect(Where("minilm-l6", "words"), "", Interval(1.0, 0.5, 1.5), 1, 3)
    verdict = StudyVerdict(Path("runs"), "structure", answer)
    assert is_on(verdict, str(DEMO_MODELS["minilm-l6"].packaged()))
    assert not is_on(verdict, "smollm2-135m")


@pytest.mark.parametrize(
    "base", ["llama", "s3://models/llama", "C:/models/llama", "tests on words/llama", "a: b"]
)
def test_a_verdict_is_of_its_base_whatever_the_path_says(tmp_path: Path, base: str) -> None:
    """A base was read out of the label `BASE on TASK`, and cut at the first colon or ` on `."""
    rows = matched(effect=1.0, base=base)
    folder = study_folder(tmp_path / "study", [*rows, *matched(effect=1.0, base="tests")], [])
    ours = [verdict for verdict in verdicts_of(folder) if is_on(verdict, base)]
    assert ours
    assert all(verdict.answer.on.base == base for verdict in ours)
    assert not any(is_on(verdict, "another") for verdict in ours)
