"""The finding of an audit, its meaning and the next steps, in the same words in terminal and HTML report."""

from __future__ import annotations

from dataclasses import dataclass

from ...audits.command_line import is_from_files
from ...audits.result.audit_result import Audit
from ...audits.scales.critical_scales_result import CriticalScales
from ...charts.text import plural
from ...checkpoints.pairing.pairing import SkipKind, Skipped
from ...studies.advice.steps import PAPER, STUDIES, STUDIES_WITHOUT, Facts, Step, steps

# Kinds of reasons to skip a tensor that leave open whether fine-tuning changed it, though it was selected.
_NOT_COMPARED = (SkipKind.OTHER_SHAPE, SkipKind.NO_COUNTERPART, SkipKind.NOT_FINITE)


@dataclass(frozen=True)
class NextSteps:
    """The finding of an audit, its meaning by the paper and by our studies, and the next steps."""

    finding: str
    meaning: str
    steps: list[Step]


def next_steps(audit: Audit, scales: CriticalScales | None = None) -> NextSteps:
    """Return the words for `audit`; with its critical scales, they name the largest update scale too."""
    if not audit.matrices:
        return _nothing_audited(audit)
    matrices = plural(len(audit.matrices), "changed matrix", "changed matrices")
    what_to_do = steps(Facts.of(audit, scales))
    if audit.intruders == 0:
        return NextSteps(
            f"None of the {plural(audit.vectors, 'examined vector')} of {matrices} is an intruder.",
            "This does not mean that the model forgot nothing: "
            f"vectors below the top {audit.k} were not examined. {STUDIES_WITHOUT}",
            what_to_do,
        )
    affected = sum(matrix.intruders > 0 for matrix in audit.matrices)
    return NextSteps(
        f"Fine-tuning left {plural(audit.intruders, 'intruder')} in {affected:,} of {matrices}.",
        f"{PAPER} {STUDIES}",
        what_to_do,
    )


def not_compared(audit: Audit) -> Skipped | None:
    """Return a matrix that could not be compared, if no matrix could: the counts of zero are no answer then."""
    return next(
        (skipped for skipped in audit.skipped if not audit.matrices and skipped.kind in _NOT_COMPARED), None
    )


def _nothing_audited(audit: Audit) -> NextSteps:
    if not_compared(audit) is not None:
        finding = "Nothing to audit: no selected matrix differs and can be compared."
        meaning = "This says nothing about the skipped tensors; the reasons are listed with them."
    else:
        finding = "Nothing to audit: base and tuned are equal in every selected matrix."
        meaning = "This says nothing about the tensors that were not selected."
    if not is_from_files(audit):
        return NextSteps(finding, meaning, [])
    command = ("intruders", "inspect", audit.tuned_source, "--base", audit.base_source)
    step = Step("Check that the paths are the intended ones, and what they contain:", command)
    return NextSteps(finding, meaning, [step])
