"""Findings as SARIF 2.1.0, the format that GitHub's code scanning and other platforms read."""

import gzip
import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from ..audits.gated import Gated
from ..audits.result import summary
from ..audits.result.audit_result import Audit
from ..checkpoints.merges.verdict import NOT_PROVED, TOO_SMALL, WRONG
from ..checkpoints.opening.model_sum import is_sum, split_sum
from ..checkpoints.opening.open import weights_in
from ..errors import CheckpointError, IntrudersError, in_one_line, some_of
from ..system.files import as_utf8, user_path, write_atomically
from ..system.plain_values import plain
from ..system.result_protocol import json_bytes
from ..system.words import number, plural
from ..version import __version__

if TYPE_CHECKING:  # pandas takes half a second, and an audit needs none
    from ..audits.fleet.fleet_result import FleetAudit
    from ..checkpoints.merges.verify import Verification

Level = Literal["error", "warning", "note"]

TOO_MANY = "intruders-above-limit"
TOO_MUCH = "nats-above-limit"
TOO_LARGE = "update-too-large"
UNAPPLIED = "update-not-applied"
OTHERS = "other-tensors-changed"
REFUSED = "refused"
LEFT_OUT = "matrices-left-out"
UNCHANGED = "nothing-differs"
# GitHub shows the first 5,000 results of a file, and takes files of at most 10 MB after gzip.
MOST_RESULTS, MOST_BYTES = 5_000, 10_000_000
SCHEMA_URI = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"

_LONGEST_MESSAGE = 1_000  # characters
# Rule: level, what it reports, and what to do.
_RULES: dict[str, tuple[Level, str, str]] = {
    TOO_MANY: (
        "error",
        "The model has more intruder dimensions than --fail-above allows.",
        (
            "Measure forgetting with 'intruders evaluate' first, and raise the limit if nothing was lost. Otherwise "
            "use 'intruders heal' or 'intruders scale --at', or train at a lower learning rate."
        ),
    ),
    TOO_MUCH: (
        "error",
        "The model is predicted to have forgotten more nats per token than --fail-above-nats allows.",
        (
            "Measure it with 'intruders evaluate'. Then use 'intruders heal' or 'intruders scale --at', or train at a "
            "lower learning rate."
        ),
    ),
    TOO_LARGE: (
        "warning",
        "The largest singular value of an update exceeds that of its base matrix.",
        (
            "Check the adapter's scale (alpha / r) and the learning rate. 'intruders scale' measures how far the "
            "adapter can be scaled before it creates intruders."
        ),
    ),
    UNAPPLIED: (
        "error",
        "The merged model is not its base plus the adapter.",
        (
            "Merge the adapter again, at its own scale and into the base that it was trained on. 'intruders verify "
            "--verbose' lists every matrix."
        ),
    ),
    OTHERS: (
        "error",
        "The merged model changed tensors that the adapter leaves as they are.",
        "Merge into the original base. Pass --allow-other if the other changes are intended.",
    ),
    REFUSED: (
        "error",
        "A model could not be read or paired with its base, so nothing is known about it.",
        "The message says what was expected and what to do.",
    ),
    LEFT_OUT: (
        "warning",
        "Matrices with NaN or infinity are not counted, because --skip-non-finite was passed.",
        "Repair the model, or audit one that was saved before its training diverged.",
    ),
    UNCHANGED: (
        "note",
        "The model equals its base in every matrix that was to be audited.",
        "Check that the paths are the intended ones.",
    ),
}


@dataclass(frozen=True)
class GateFinding:
    """One result: a rule that a model does not satisfy."""

    rule: str
    level: Level
    message: str
    source: str  # the model, as it was given
    numbers: dict[str, Any] = field(default_factory=dict)  # for programs
    told: str = ""  # what a terminal says, where it is not the message


def audit_findings(
    audit: Audit, fail_above: int | None, fail_above_nats: float | None = None
) -> list[GateFinding]:
    """Return what an audit has to report: too many intruders or nats, no answer, updates larger than a matrix."""
    gated = Gated.of(audit)
    why = None if fail_above is None else gated.why_open(fail_above)
    findings = _of_model(audit.tuned_source, audit.base_source, gated, why, fail_above)
    return findings + _on_nats(audit.tuned_source, gated, fail_above_nats)


def _on_nats(source: str, gated: Gated, limit: float | None) -> list[GateFinding]:
    """Return what the gate in nats says of one model, where there is one."""
    if limit is None:
        return []
    why, forgetting = gated.why_nats_open(limit), gated.forgetting
    if why is not None:
        return [refusal(source, why, f"error: --fail-above-nats has no answer: {why}")]
    if forgetting is None or not forgetting.is_above(limit):
        return []
    numbers = {**plain(forgetting.kl), "limit": limit}
    return [GateFinding(TOO_MUCH, "error", forgetting.above_in_words(limit), source, numbers)]


def fleet_findings(
    fleet: "FleetAudit", fail_above: int | None, fail_above_nats: float | None = None
) -> list[GateFinding]:
    """Return what a fleet has to report: as :func:`audit_findings` of each adapter, and those that were refused."""
    findings: list[GateFinding] = []
    for row in fleet.records():
        if row["status"] == "refused":
            findings.append(refusal(row["adapter"], str(row["reason"])))
            continue
        own = fleet.gated[row["adapter"]]
        why = own.why_open(-1 if fail_above is None else fail_above)  # any count is above -1
        findings += _of_model(row["adapter"], fleet.base_source, own, why, fail_above)
        if own.nothing is None:
            findings += _on_nats(row["adapter"], own, fail_above_nats)
    for path, what in fleet.weights_passed_over.items():
        why = f"passed over, because it is not an adapter ({what}); pass it by its own path, or move it"
        findings.append(refusal(path, why))
    return findings


def verification_findings(verification: "Verification", allow_other: bool) -> list[GateFinding]:
    """Return what a verification has to report: one finding per verdict, and one for other changes."""
    source = verification.merged_source
    names_of: dict[str, list[str]] = {}
    for matrix in verification.matrices:
        names_of.setdefault(matrix.found.verdict, []).append(matrix.name)
    findings = []
    levels: dict[str, Level] = {**dict.fromkeys(WRONG, "error"), NOT_PROVED: "warning"}
    if len(names_of) == 1:  # beside other matrices, those whose update is too small say nothing
        levels[TOO_SMALL] = "note"
    for verdict, names in names_of.items():
        if verdict in levels:
            matrices = plural(len(names), "matrix", "matrices")
            message = f"{verdict} in {matrices}: {some_of(names)} (adapter '{verification.adapter_source}')"
            numbers = {"verdict": verdict, "matrices": len(names)}
            findings.append(GateFinding(UNAPPLIED, levels[verdict], message, source, numbers))
    if verification.others and not allow_other:
        others = [tensor.name for tensor in verification.others]
        message = f"{plural(len(others), 'other tensor')} changed: {some_of(others)}"
        findings.append(GateFinding(OTHERS, "error", message, source, {"tensors": len(others)}))
    return findings


def refusal(source: str, reason: str | IntrudersError, told: str = "") -> GateFinding:
    """Return the finding that a model could not be examined, and why."""
    text = in_one_line(reason) if isinstance(reason, IntrudersError) else reason
    return GateFinding(REFUSED, "error", text, source, told=told)


def sarif_document(findings: Sequence[GateFinding], is_refused: bool = False) -> dict[str, Any]:
    """Return a SARIF 2.1.0 log within GitHub's limits, the most severe first; ``is_refused``: the run has no answer."""
    ordered = sorted(findings, key=lambda finding: ("error", "warning", "note").index(finding.level))
    refusals = (_message(finding) for finding in ordered if finding.rule == REFUSED)
    why = next(refusals) if is_refused else None
    kept = min(len(ordered), MOST_RESULTS)
    while True:
        document = _document(ordered[:kept], len(ordered), why)
        # A result is about 1 kB before it is compressed, so that the loop is for messages that do not compress.
        if not kept or len(gzip.compress(json_bytes(document, indent=1))) <= MOST_BYTES:
            return document
        kept //= 2


def write_sarif(findings: Sequence[GateFinding], path: Path, is_refused: bool = False) -> None:
    """Write the :func:`sarif_document` of the findings to a file, completely or not at all."""
    write_atomically(path, json_bytes(sarif_document(findings, is_refused), indent=1))


def _of_model(
    source: str, base: str, gated: Gated, why: str | None, fail_above: int | None
) -> list[GateFinding]:
    """Return what an audited model has to report; ``why`` is why its intruders are not counted, None where they are."""
    findings = []
    if why is not None:
        what = "does not count every matrix" if gated.matrices else "has nothing to count"
        findings.append(refusal(source, why, f"error: --fail-above {what}: {why}"))
    elif fail_above is not None and not gated.matrices:
        findings.append(GateFinding(UNCHANGED, "note", summary.unchanged_in_words(base, source), source))
    elif fail_above is not None and gated.not_finite:
        matrices = plural(gated.not_finite, "matrix", "matrices")
        message = f"{matrices} with NaN or infinity left out of the count (--skip-non-finite)"
        findings.append(GateFinding(LEFT_OUT, "warning", message, source, {"matrices": gated.not_finite}))
    if fail_above is not None and gated.intruders > fail_above:
        message = (
            f"{plural(gated.intruders, 'intruder')}, more than the {fail_above} that --fail-above allows"
        )
        numbers = {"intruders": gated.intruders, "limit": fail_above}
        findings.append(GateFinding(TOO_MANY, "error", message, source, numbers))
    if gated.largest_update > 1:
        size = f"{number(gated.largest_update)} times as large as the matrix (spectral norms)"
        facts = {"relative": gated.largest_update, "matrix": gated.largest_in}
        message = f"the update of '{gated.largest_in}' is {size}"
        findings.append(GateFinding(TOO_LARGE, "warning", message, source, facts))
    return findings


def _document(findings: Sequence[GateFinding], total: int, refused: str | None) -> dict[str, Any]:
    notifications = []
    if refused is not None:
        notifications.append({"level": "error", "message": {"text": refused}})
    if len(findings) < total:
        text = f"{total - len(findings):,} of {total:,} results are left out, because GitHub limits a file"
        notifications.append({"level": "warning", "message": {"text": text}})
    told = {"toolExecutionNotifications": notifications} if notifications else {}
    driver = {"name": "intruders", "version": __version__, "rules": [_rule(name) for name in _RULES]}
    run = {
        "tool": {"driver": driver},
        "invocations": [{"executionSuccessful": refused is None, **told}],
        "columnKind": "unicodeCodePoints",
        "results": [_result(finding) for finding in findings],
        "properties": {"counts": dict(Counter(finding.rule for finding in findings))},
    }
    return {"$schema": SCHEMA_URI, "version": "2.1.0", "runs": [run]}


def _rule(name: str) -> dict[str, Any]:
    level, what, help_text = _RULES[name]
    severity = "recommendation" if level == "note" else level
    return {
        "id": name,
        "name": "".join(part.capitalize() for part in name.split("-")),
        "shortDescription": {"text": what},
        "fullDescription": {"text": what},
        "help": {"text": f"{what} {help_text}", "markdown": f"{what}\n\n{help_text}"},
        "defaultConfiguration": {"level": level},
        "properties": {"tags": ["model"], "precision": "very-high", "problem.severity": severity},
    }


def _message(finding: GateFinding) -> str:
    source, message = as_utf8(finding.source), as_utf8(" ".join(finding.message.split()))
    if len(message) > _LONGEST_MESSAGE:
        message = f"{message[: _LONGEST_MESSAGE - 3]}..."
    return f"{source}: {message}"


def _result(finding: GateFinding) -> dict[str, Any]:
    key = "\0".join([finding.rule, str(finding.numbers.get("verdict", "")), as_utf8(finding.source)])
    return {
        "ruleId": finding.rule,
        "ruleIndex": list(_RULES).index(finding.rule),
        "level": finding.level,
        "message": {"text": _message(finding)},
        "locations": [
            {"physicalLocation": {"artifactLocation": artifact, "region": {"startLine": 1}}}
            for artifact in _artifacts(finding.source)
        ],
        # The same finding in a later run is the same alert. GitHub would otherwise hash a line of the file.
        "partialFingerprints": {
            "primaryLocationLineHash": f"{hashlib.sha256(key.encode()).hexdigest()[:32]}:1"
        },
        "properties": finding.numbers,
    }


def _artifacts(source: str) -> list[dict[str, str]]:
    """Return the file of a model, relative to the current folder where it is inside; of a sum those of its parts."""
    if is_sum(source):
        of_parts = [artifact for part, _ in split_sum(source) for artifact in _artifacts(part)]
        # SARIF wants different locations, and a sum may take one part twice.
        return list({artifact["uri"]: artifact for artifact in of_parts}.values())[:100]
    try:
        path = user_path(source)
        if path.is_dir():
            with suppress(CheckpointError):  # then the folder stands for it
                path = weights_in(path)
        if path.exists():
            inside = path.resolve()
            if inside.is_relative_to(Path.cwd()):
                relative = inside.relative_to(Path.cwd()).as_posix()
                return [{"uri": quote(os.fsencode(relative)), "uriBaseId": "%SRCROOT%"}]
            return [{"uri": inside.as_uri()}]
    except (OSError, RuntimeError, ValueError):  # a name too long, no home folder, a null byte
        pass
    return [{"uri": quote(os.fsencode(source), safe="/")}]  # a Hub id, an alias, or what does not exist
