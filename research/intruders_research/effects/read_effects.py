"""Effects from a folder: those of effects.csv, and those of the studies published in its subfolders."""

import csv
import io
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from intruders.errors import ResultFileError
from intruders.studies.results import load_results
from intruders.studies.study_folder import PUBLISHED
from intruders.studies.tables import SCHEMA
from intruders.system.documents import read_document
from intruders.system.files import read_bytes

from ..published.published_study import PublishedStudy
from .study_effect import StudyEffect

TRANSCRIBED = "effects.csv"  # effects of studies whose runs are lost, as their pages printed them
_COLUMNS = [field.name for field in fields(StudyEffect) if field.name != "decided"]
_WHOLE = ("seeds", "expected", "tests")
_NUMBERS = ("estimate", "low", "high")
# What a verdict's effect is measured in, by words in its name; effects of one unit share an axis.
_UNITS = (
    ("per 100", "intruders per 100 vectors"),
    ("effective rank", "effective rank"),
    ("doublings", "doublings"),
    ("rank correlation", "rank correlation"),
    ("Spearman", "rank correlation"),
    ("AUC", "AUC above chance"),
    ("points", "accuracy points"),
    ("loss", "nats per token"),
    ("nats", "nats per token"),
)


def read_effects(folder: Path) -> list[StudyEffect]:
    """Return all effects in the folder, those of the file first.

    Raises:
      ResultFileError: the folder has neither the file nor published tables, or one of them is damaged.
    """
    file = folder / TRANSCRIBED
    published = sorted(inner.parent for inner in folder.glob(f"*/{PUBLISHED}"))
    if not file.is_file() and not published:
        raise ResultFileError(
            f"'{folder}' has no {TRANSCRIBED} and no folder of published tables; make one: intruders publish "
            f"RUNS {folder}/NAME"
        )
    effects = [*_tested_together(list(_transcribed(file)))] if file.is_file() else []
    for study in published:
        effects += _of_published(study)
    return effects


def _transcribed(file: Path) -> Iterator[StudyEffect]:
    reader = csv.DictReader(io.StringIO(read_bytes(file).decode("utf-8", errors="replace")))
    if reader.fieldnames is None or list(reader.fieldnames) != _COLUMNS:
        raise ResultFileError(f"'{file}' has the columns {reader.fieldnames}; expected {', '.join(_COLUMNS)}")
    for line, row in enumerate(reader, start=2):
        try:
            yield StudyEffect(**{name: _value(name, row[name]) for name in _COLUMNS})
        except (TypeError, ValueError) as error:
            raise ResultFileError(f"'{file}', line {line}: {error}; expected a number or nothing") from error


def _tested_together(effects: list[StudyEffect]) -> Iterator[StudyEffect]:
    """Raise the number of tests of each effect to that of its claim in its study, whether they agree or not."""
    tested = Counter(
        (effect.claim, effect.study) for effect in effects if effect.expected and effect.seeds > 1
    )
    for effect in effects:
        most = max(effect.tests, tested[effect.claim, effect.study])
        yield replace(effect, tests=most) if effect.expected else effect


def _value(name: str, text: str) -> Any:
    if name in _WHOLE:
        return int(text)
    if name in _NUMBERS:
        return float(text) if text else math.nan
    return text


def _of_published(folder: Path) -> Iterator[StudyEffect]:
    published = PublishedStudy.load(folder)
    document = read_document(folder / "findings.json", "the findings of a study", SCHEMA)
    if document is None:
        raise ResultFileError(f"'{folder}' has no findings.json; fetch the folder again")
    runs = load_results(folder).runs
    # A study may have a page of its own name beside the folder of all data.
    has_page = (folder.parent.parent / f"{folder.name}.md").is_file()
    for finding in document["findings"]:
        kind = "sequence" if finding["name"] == "sequence" else "finetune"
        score, effort = equal_score(runs, kind), equal_effort(runs, kind)
        answers = [answer for answer in finding["answers"] if answer["estimate"] is not None]
        tested = sum(answer.get("p_adjusted") is not None for answer in answers)
        for answer in answers:
            unit = next((unit for words, unit in _UNITS if words in answer["what"]), answer["what"])
            values = {name: math.nan if answer[name] is None else float(answer[name]) for name in _NUMBERS}
            yield StudyEffect(
                claim=finding["name"],
                where=answer["where"],
                effect=answer["what"],
                unit=unit,
                seeds=answer["seeds"],
                **values,
                expected=1 if answer["expected"] == "above 0" else -1,
                tests=max(1, tested),
                equal_score=score,
                equal_effort=effort,
                study=published.name,
                page=f"{folder.name}.md" if has_page else f"data/{folder.name}/study.yaml",
                data="kept",
                decided=answer["decision"],
            )


def equal_score(runs: pd.DataFrame, kind: str = "finetune") -> str:
    """Return whether the finished runs of a kind were to stop at a score and did: yes, no or part.

    A sequence did if every one of its stages did.
    """
    tuned = runs[(runs["status"] == "finished") & (runs["kind"] == kind)]
    reached = tuned["match"].notna() & tuned["stopped_by"].eq("match")
    if not reached.any():
        return "no"
    return "yes" if reached.all() else "part"


def equal_effort(runs: pd.DataFrame, kind: str = "finetune") -> str:
    """Return whether all methods and ranks ran at several learning rates, and at equally many: yes or no.

    A term that is added to the training, such as replay, makes a method of its own.
    """
    tuned = runs[(runs["status"] == "finished") & (runs["kind"] == kind)]
    added = [name for name in ("replay", "budget") if name in tuned]
    rates = tuned.groupby(["base", "task", "method", "rank", *added], dropna=False)["lr"].nunique()
    return "yes" if len(rates) and rates.min() > 1 and rates.nunique() == 1 else "no"
