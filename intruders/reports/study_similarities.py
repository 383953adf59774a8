"""Similarity matrices of a study's settings in a row: one run of each, from the audits that the study kept."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..detection.table import Audit
from ..errors import IntrudersError
from ..studies.analyses.runs import finished
from ..studies.results import Results
from .charts.common import by_method_and_rank
from .compare import common_matrices
from .payload import packed_cosines

MOST_SETTINGS = 6
MOST_MATRICES = 8


@dataclass(frozen=True)
class SimilarityRow:
    """The same matrices of several runs of one base."""

    labels: list[str]
    audits: list[Audit]  # with the shown matrices only
    run_ids: list[str]

    def payload(self) -> dict[str, Any]:
        """Plain JSON values for the page."""
        return {
            "matrices": [matrix.name for matrix in self.audits[0].matrices],
            "runs": [
                {
                    "label": label,
                    "matrices": [
                        {
                            "intruders": matrix.intruders,
                            "vectors": len(matrix.vectors),
                            "effectiveRank": matrix.update.effective_rank,
                            "similarity": packed_cosines(matrix.similarity),
                        }
                        for matrix in audit.matrices
                    ],
                }
                for label, audit in zip(self.labels, self.audits, strict=True)
            ],
        }


def similarity_row(results: Results, examples: pd.DataFrame | None) -> SimilarityRow | None:
    """The runs beside the first of the structure's examples: one a setting on its base and task, of one seed.

    None where there are no examples, or fewer than two of the runs have a readable audit.
    """
    if examples is None or examples.empty:
        return None
    chosen = _one_run_a_setting(results.runs, examples)
    audits = {}
    for label, run_id in chosen.items():
        audit = _audit(results.folder / "runs" / run_id)
        if audit is not None:
            audits[label] = audit
    if len(audits) < 2:
        return None
    try:
        shared = common_matrices(list(audits.values()))
    except IntrudersError:
        return None
    kept = _most_telling(shared.audits, str(examples.iloc[0]["matrix"]))
    return SimilarityRow(list(audits), kept, [chosen[label] for label in audits])


def _one_run_a_setting(runs: pd.DataFrame, examples: pd.DataFrame) -> dict[str, str]:
    """Run ids by setting, of the examples' base, task, experiment and seed, the examples' own settings first."""
    own = dict(zip(examples["setting"].astype(str), examples["run_id"].astype(str), strict=True))
    first = runs[runs["run_id"] == examples.iloc[0]["run_id"]]
    if first.empty:
        return own
    alike = finished(runs)
    for column in ("base", "task", "experiment", "seed"):
        alike = alike[alike[column] == first.iloc[0][column]]
    others = dict(zip(alike["described"].astype(str), alike["run_id"].astype(str), strict=True))
    of_base = examples[examples["base"] == examples.iloc[0]["base"]]
    kept = dict(zip(of_base["setting"].astype(str), of_base["run_id"].astype(str), strict=True))
    for label in by_method_and_rank(others):
        if len(kept) < MOST_SETTINGS:
            kept.setdefault(label, others[label])
    return {label: kept[label] for label in by_method_and_rank(kept)}


def _audit(folder: Path) -> Audit | None:
    """The audit of a run, or None where it is not there or cannot be read: a report is no place to fail over one."""
    try:
        return Audit.load(folder / "audit.json")
    except IntrudersError:
        return None


def _most_telling(audits: list[Audit], first: str) -> list[Audit]:
    """The audits with the matrix `first` and those whose number of intruders differs most between them."""
    spread = {}
    for at, matrix in enumerate(audits[0].matrices):
        counts = [audit.matrices[at].intruders for audit in audits]
        spread[matrix.name] = (matrix.name == first, max(counts) - min(counts), -at)
    names = sorted(spread, key=lambda name: spread[name], reverse=True)[:MOST_MATRICES]
    return [dataclasses.replace(audit, matrices=[audit.matrix(name) for name in names]) for audit in audits]
