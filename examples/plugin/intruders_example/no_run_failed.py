"""A claim about a study itself: that none of its runs failed."""

from collections.abc import Sequence
from typing import Any

from intruders_research.claims.shared.claim import Claim, Finding

CLAIM = Claim(
    name="no-run-failed",
    title="No run failed",
    question="Did every run of the study finish?",
    paper="None: this is an example.",
    meaning="every number of the study comes from a finished run",
    needs="this needs a study with at least one run",
)


def analyse(results: Any) -> Finding:
    """Count the runs by their status."""
    runs = results.runs
    if runs.empty:
        return Finding(CLAIM.name, CLAIM.question, CLAIM.paper, f"Not run: {CLAIM.needs}", None)
    finished = int((runs["status"] == "finished").sum())
    shown = finished == len(runs)
    verdict = f"{'Supported' if shown else 'Contradicted'}: {finished} of {len(runs)} runs finished"
    return Finding(CLAIM.name, CLAIM.question, CLAIM.paper, verdict, shown, runs=finished)


def charts(finding: Finding, palette: Any) -> Sequence[Any]:
    """Draw nothing."""
    return []
