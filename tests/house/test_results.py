"""One protocol for results: what every public function returns is public, becomes plain values, is saved and loaded."""

import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import intruders
from intruders.errors import ResultFileError
from intruders.system.result_protocol import Result

FIXTURES = Path(__file__).parents[1] / "fixtures" / "schema-1"

# What a public function returns that is no result of a measurement.
NO_RESULTS = {
    "Path": "a file that was written",
    "DataFrame": "a table of pandas, which saves itself",
    "Plugin": "a package that is installed",
    "PreparedBase": "what a cache on disk holds now",
    "Results": "the tables of a study's folder, which are files already",
    "Study": "what a file describes, which a person writes",
}
# The file of the fixtures that a result is loaded from; others are made below.
FROM_FIXTURES = {
    "Attribution": "attribution.json", "Audit": "audit.json", "CriticalScales": "scale.json",
    "Healing": "heal.json", "Inspection": "inspection.json", "Mitigation": "intruders.json",
    "RemedyComparison": "remedies.json", "RunFolder": ".", "SequenceResult": "sequence.json",
    "ServedVerification": "served.json", "UpdateAlone": "update.json", "UpdateOverlap": "overlap.json",
    "Verification": "verification.json",
}  # fmt: skip
# Results of several files are saved as a folder, which has the document in this file.
IN_FOLDERS = {"Evaluation": "evaluation.json", "RemedyComparison": "remedies.json", "RunFolder": "run.json"}


def returned() -> dict[str, str]:
    """The types that public functions return, by their name, each with one function that does."""
    functions = {name: getattr(intruders, name) for name in intruders.__all__}
    return {
        name: function
        for function, value in sorted(functions.items())
        if callable(value) and not inspect.isclass(value)
        for name in re.findall(r"[A-Z]\w+", str(inspect.signature(value).return_annotation))
    }


RETURNED = returned()
RESULTS = sorted(RETURNED.keys() - NO_RESULTS.keys())


def made(name: str, folder: Path) -> Any:
    """A result of that type, with numbers that JSON does not have where they may be there."""
    if name in FROM_FIXTURES:
        return getattr(intruders, name).load(FIXTURES / FROM_FIXTURES[name])
    return MAKERS[name](folder)


def evaluation(folder: Path) -> Any:
    from intruders.measures.corpus_loss import CorpusLoss
    from intruders.measures.harness import HarnessScore
    from intruders.measures.intervals import Interval
    from intruders.measures.losses import DocumentLosses
    from intruders.measures.task_score import TaskScore

    parts = [
        DocumentLosses("cross-entropy", np.array([20.125, 1 / 3]), np.array([10, 3])),
        DocumentLosses("cross-entropy", np.array([7.0]), np.array([5])),
    ]
    known, unknown = Interval(2.0, 1.9, 2.1), Interval(0.2, -np.inf, np.inf)
    loss = CorpusLoss("pydoc", known, parts, [0.7, 0.3], known, unknown, ("a", "b"))
    score = TaskScore("mine", "validation", [True, False], True, "hub", 8, 1)
    harness = HarnessScore("arc", "acc", 0.5, None)
    return intruders.Evaluation("tuned", "base", [loss], [score], [harness], ["a note"])


def sweep(folder: Path) -> Any:
    from tests.experiments.test_intervene import point
    from tests.fixtures.make_fixtures import audit

    tuned = point("intruders", 1.0, 0.0, 150)
    points = [point("intruders", 0.5, -0.12, 120), point("shrink", 0.5, -0.1, 130)]
    return intruders.InterventionSweep("base", "tuned", audit(), 0, tuned, dict(tuned.losses), points)


def scale_choice(folder: Path) -> Any:
    from intruders.experiments.point import CurveOfScales

    points = intruders.Healing.load(FIXTURES / "heal.json").points
    return intruders.ScaleChoice(
        "base", "tuned", "task", "pydoc", 0.05, 0.7, [CurveOfScales(0.7, 2.0, 0.1)], points
    )


def study_outcome(folder: Path) -> Any:
    return intruders.StudyOutcome(folder, 3, 2, {"a": "no memory"}, ["b"], ["c"], {"d": "other settings"})


def fleet(folder: Path) -> Any:
    base = {"up.weight": torch.diag(torch.arange(9.0, 0.0, -1.0))}  # (9, 9)
    strong = {"up.weight": base["up.weight"] + 100 * torch.ones(9, 9) / 9}
    return intruders.audit_fleet(base, [strong, base, {"up.weight": torch.ones(3, 3)}], k=3, cache=False)


MAKERS: dict[str, Callable[[Path], Any]] = {
    "Evaluation": evaluation, "FleetAudit": fleet, "InterventionSweep": sweep, "ScaleChoice": scale_choice,
    "StudyOutcome": study_outcome,
    "WrittenScale": lambda folder: intruders.WrittenScale("b", "t", str(folder), "adapter", 0.5, 14, 1.25),
}  # fmt: skip


def target_of(name: str, folder: Path) -> Path:
    """Where to save a result: most want a file, some a folder that is there, and a run a folder of its own."""
    target = folder / "saved"
    if name == "Audit":
        return target.with_suffix(".json")
    if name in IN_FOLDERS and name != "RunFolder":
        target.mkdir()
    return target


def test_every_returned_type_is_public() -> None:
    assert RETURNED.keys() - {"Path", "DataFrame"} <= set(intruders.__all__)
    assert NO_RESULTS.keys() <= RETURNED.keys()  # the list may only shrink
    assert set(RESULTS) == FROM_FIXTURES.keys() | MAKERS.keys()


@pytest.mark.parametrize("name", RESULTS)
def test_a_loaded_result_has_the_document_of_the_saved_one(name: str, tmp_path: Path) -> None:
    result = made(name, tmp_path)
    assert isinstance(result, Result)
    assert inspect.ismethod(getattr(intruders, name).load)  # of the class
    document = result.to_document()
    assert document["schema"] == (2 if name == "FleetAudit" else 1)
    target = target_of(name, tmp_path)
    result.save(target)
    again = getattr(intruders, name).load(target)
    assert type(again) is type(result)
    assert again.to_document() == document
    assert json.loads(json.dumps(document, allow_nan=False)) == json.loads(json.dumps(again.to_document()))


@pytest.mark.parametrize("name", [name for name in RESULTS if name != "FleetAudit"])  # see test_contract.py
def test_a_newer_schema_and_another_kind_are_refused_by_name(name: str, tmp_path: Path) -> None:
    target = target_of(name, tmp_path)
    made(name, tmp_path).save(target)
    file = target / IN_FOLDERS[name] if name in IN_FOLDERS else target
    document = json.loads(file.read_text(encoding="utf-8"))
    load = getattr(intruders, name).load
    for other, words in (({**document, "schema": 2}, "newer version"), ({"schema": 1, "no": 0}, "saved")):
        if name == "RunFolder" and words == "saved":
            continue  # a record of a run that has just begun may lack anything
        file.write_text(json.dumps(other))
        with pytest.raises(ResultFileError, match=words) as refused:
            load(target)
        assert "saved" in str(refused.value)
