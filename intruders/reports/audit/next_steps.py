"""The finding of an audit, its meaning and the next steps, in the same words in terminal and HTML report."""

from __future__ import annotations

from dataclasses import dataclass

from ...audits.command_line import is_from_files
from ...audits.result.audit_result import Audit
from ...audits.result.summary import not_compared
from ...audits.scales.critical_scales_result import CriticalScales
from ...charts.text import plural
from ...studies.advice.steps import PAPER, STUDIES, STUDIES_WITHOUT, Facts, Step, steps


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
    return NextSteps(
        f"Fine-tuning left {plural(audit.intruders, 'intruder')} in {audit.affected:,} of {matrices}.",
        f"{PAPER} {STUDIES}",
        what_to_do,
    )


def _nothing_audited(audit: Audit) -> NextSteps:
    if not_compared(audit.matrices, audit.skipped) is not None:
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
