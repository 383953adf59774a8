"""Similarity matrices of a study's settings in a row: one run of each, from the audits that the study kept."""

import dataclasses
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pandas as pd

from intruders.audits.result.audit_result import Audit
from intruders.errors import IntrudersError
from intruders.reports.audit import packed_cosines
from intruders.reports.compare_audits import common_matrices
from intruders.studies.results import Results

from ..claims.shared.pictures import by_method_and_rank, parts
from ..claims.shared.strata import finished

MOST_SETTINGS = 6
MOST_MATRICES = 8


@dataclass(frozen=True)
class SimilarityRow:
    """The same matrices of several runs of one base."""

    title: str  # base and task, where the study has several
    labels: list[str]
    audits: list[Audit]  # with the shown matrices only
    run_ids: list[str]

    def payload(self) -> dict[str, Any]:
        """Return plain JSON values for the page."""
        return {
            "title": self.title,
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


def similarity_rows(results: Results, examples: pd.DataFrame | None) -> list[SimilarityRow]:
    """Return a row for each base and task of the structure's examples: one run per setting, of one seed.

    A base and task of which fewer than two runs have a readable audit gets no row.
    """
    return [row for part in parts(examples) if (row := _row(results, part.rows, part.label)) is not None]


def _row(results: Results, examples: pd.DataFrame, title: str) -> SimilarityRow | None:
    chosen = _one_run_a_setting(results.runs, examples)
    audits = {}
    for label, run_id in chosen.items():
        with suppress(IntrudersError):  # missing or damaged: a report must not fail over one audit
            audits[label] = Audit.load(results.folder / "runs" / run_id / "audit.json")
    if len(audits) < 2:
        return None
    try:
        shared = common_matrices(list(audits.values()))
    except IntrudersError:
        return None
    kept = _most_telling(shared.audits, str(examples.iloc[0]["matrix"]))
    return SimilarityRow(title, list(audits), kept, [chosen[label] for label in audits])


def _one_run_a_setting(runs: pd.DataFrame, examples: pd.DataFrame) -> dict[str, str]:
    """Return run ids by setting, of the examples' base, task, experiment and seed, the examples' settings first."""
    kept = dict(zip(examples["setting"].astype(str), examples["run_id"].astype(str), strict=True))
    first = runs[runs["run_id"] == examples.iloc[0]["run_id"]]
    alike = finished(runs)
    for column in ("base", "task", "experiment", "seed"):
        alike = alike[alike[column].isin(first[column])]
    others = dict(zip(alike["described"].astype(str), alike["run_id"].astype(str), strict=True))
    for label in by_method_and_rank(others):
        if len(kept) < MOST_SETTINGS:
            kept.setdefault(label, others[label])
    return {label: kept[label] for label in by_method_and_rank(kept)}


def _most_telling(audits: list[Audit], first: str) -> list[Audit]:
    """Keep the matrix `first` and those whose number of intruders differs most between the audits."""
    spread = {}
    for at, matrix in enumerate(audits[0].matrices):
        counts = [audit.matrices[at].intruders for audit in audits]
        spread[matrix.name] = (matrix.name == first, max(counts) - min(counts), -at)
    names = sorted(spread, key=lambda name: spread[name], reverse=True)[:MOST_MATRICES]
    return [dataclasses.replace(audit, matrices=[audit.matrix(name) for name in names]) for audit in audits]
