"""``intruders audit`` and ``intruders fleet``: what is found, and the gates that it must pass."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..checkpoints.stored.locate import DEMO_ADAPTER, DEMO_ADAPTERS
from ..errors import SettingError
from ..system.this_process import ExitStatus
from ..system.words import plural
from . import options
from .from_verb import REQUIRED, argument, command, flag
from .output import Outputs, check_nats, note, report_if_possible, resumable, say

if TYPE_CHECKING:
    from ..audits.fleet.fleet_result import FleetAudit
    from ..audits.result.audit_result import Audit
    from ..reports.terminal import Page

DEMO_REPORT = Path("intruders-demo.html")


def _check_gates(fail_above: int | None, fail_above_nats: float | None) -> None:
    """Raise SettingError for a negative number of intruders, which every audit exceeds, and for no number of nats."""
    if fail_above is not None and fail_above < 0:
        raise SettingError(
            f"fail_above is {fail_above}; expected a number of intruders, 0 or more; pass 0 to allow none"
        )
    check_nats("fail_above_nats", fail_above_nats)


@command(
    options.BASE_UNLESS_DEMO,
    options.TUNED,
    flag(
        "demo",
        f"Audit a small adapter that ships with the package and write the report {DEMO_REPORT}. The model minilm-l6 "
        "must be installed.",
    ),
    options.auditing(),
    options.outputs(options.JSON, options.parquet_of("vector"), options.HTML, options.SARIF),
    options.fail_above_of("there are"),
    options.fail_above_nats_of(""),
    options.verbose_of("matrix and all advice"),
)
def audit(
    *,
    base: str | None,
    tuned: str | None,
    demo: bool,
    to: Outputs,
    fail_above: int | None,
    fail_above_nats: float | None,
    verbose: bool,
    **asked: Any,
) -> None:
    """Find the intruder dimensions of a fine-tuned model.

    Prints a table. --json, --parquet and --html save the result.

    Examples:
      # Audit a LoRA adapter and save the report as HTML
      intruders audit smollm2-135m my-adapter --html report.html
      # Exit with status 1 if there are more than 20 intruders
      intruders audit base-model tuned-model --fail-above 20
    """
    from ..audits.audit import audit as find_intruders
    from ..reports import sarif
    from ..reports.audit import print_audit, render_audit
    from ..reports.html_page import check_can_write_html
    from ..system.files import write_atomically

    if demo:
        if base is not None:
            raise SettingError(f"--demo was given together with the model '{base}'; pass one of the two")
        base, tuned = DEMO_ADAPTERS[DEMO_ADAPTER], DEMO_ADAPTER
        if to.html is None:
            with report_if_possible():
                check_can_write_html(DEMO_REPORT)
                to = replace(to, html=DEMO_REPORT)
    elif base is None:
        raise SettingError(
            "no model was given; expected BASE TUNED, or an adapter that names its base; "
            "run intruders audit --demo to see an example"
        )
    with to.work(source=str(tuned or base)) as progress:
        _check_gates(fail_above, fail_above_nats)
        result = find_intruders(base, tuned, **asked, progress=progress)
    findings = sarif.audit_findings(result, fail_above, fail_above_nats)
    rules = [finding.rule for finding in findings]
    # Write files first: they must survive a reader of the table that stops early (`| head`).
    if to.parquet is not None:
        write_atomically(to.parquet, result.to_parquet())
    if to.sarif is not None:
        sarif.write_sarif(findings, to.sarif, is_refused=sarif.REFUSED in rules)

    def show(result: "Audit", page: "Page") -> None:
        print_audit(result, page, verbose=verbose)
        if demo and to.html is not None:
            say([f"report: {to.html.resolve()}"], whole=True)

    to.put(result, show, render_audit)
    for finding in findings:
        if finding.rule != sarif.TOO_LARGE:  # which no gate is about
            note(finding.told or finding.message)
        if finding.rule == sarif.REFUSED:
            raise typer.Exit(ExitStatus.REFUSED)
    if sarif.TOO_MANY in rules or sarif.TOO_MUCH in rules:
        raise typer.Exit(ExitStatus.FAILED)


@command(
    options.BASE_ALONE,
    argument(
        "adapters",
        list[str],
        "Adapters or tuned models: folders, files, Hub ids, globs, folders of adapters, @FILE with one per line, or "
        "collection:OWNER/SLUG of the Hub.",
        metavar="ADAPTER...",
    ),
    options.folder(
        "out",
        "Folder or URL of the results. Run the same command again to resume or to add adapters.",
        REQUIRED,
        str,
    ),
    options.auditing(),
    options.WORKERS_ON_RAY,
    options.outputs(options.JSON, options.SARIF),
    options.fail_above_of("any adapter has"),
    options.fail_above_nats_of(" by any adapter"),
    flag(
        "fail_refused",
        "Exit with status 1 if any adapter could not be audited, or a folder has other weights that were passed over.",
        panel=options.OUTPUT,
    ),
    options.verbose_of("adapter"),
)
def fleet(
    *,
    base: str,
    adapters: list[str],
    out: str,
    to: Outputs,
    fail_above: int | None,
    fail_above_nats: float | None,
    fail_refused: bool,
    verbose: bool,
    **asked: Any,
) -> None:
    """Audit many adapters of one base in one pass.

    Writes adapters.parquet, the folder vectors with a file per adapter, and report.html to --out.

    Examples:
      # Audit every adapter in a folder and write the report
      intruders fleet smollm2-135m adapters --out fleet
      # Exit with status 1 at an intruder or a refusal
      intruders fleet base-model @list.txt --out fleet --fail-above 0 --fail-refused
    """
    from ..audits.fleet.audit_fleet import audit_fleet
    from ..reports.fleet import REPORT, print_fleet, render_fleet
    from ..reports.html_page import write_page
    from ..reports.sarif import fleet_findings, write_sarif
    from ..system.store import Store, is_url

    with resumable("finished blocks are kept"), to.work(source=base) as progress:
        _check_gates(fail_above, fail_above_nats)
        result = audit_fleet(base, adapters, out=out, **asked, progress=progress)
    notes, status = _verdict(result, fail_above, fail_above_nats, fail_refused)
    if to.sarif is not None:
        findings = fleet_findings(result, fail_above, fail_above_nats)
        write_sarif(findings, to.sarif, is_refused=status is ExitStatus.REFUSED)
    try:
        to.put(result, partial(print_fleet, verbose=verbose))
        for line in notes:
            note(line)
    finally:  # last, because its fault must lose nothing; also for a reader of the table that stops early
        with report_if_possible():
            write_page(result.folder / REPORT, lambda: render_fleet(result))
            if is_url(out):
                Store(result.folder, out).send(REPORT)
    if status is not None:
        raise typer.Exit(status)


def _verdict(
    result: "FleetAudit", fail_above: int | None, fail_above_nats: float | None, fail_refused: bool
) -> tuple[list[str], ExitStatus | None]:
    """Return what is told beside the result, and the status to exit with; None where nothing failed."""
    has_limit = fail_above is not None or fail_above_nats is not None
    uncounted = result.not_compared if has_limit or fail_refused else {}
    partly: dict[str, str] = {}
    unpredicted: dict[str, str] = {}
    too_much: dict[str, str] = {}
    for name, own in result.gated.items() if has_limit else ():
        if own.nothing is None and fail_above is not None and (why := own.why_open(fail_above)):
            partly[name] = why
        if own.nothing is None and fail_above_nats is not None:
            if why := own.why_nats_open(fail_above_nats):
                unpredicted[name] = why
            if own.forgetting is not None and own.forgetting.is_above(fail_above_nats):
                too_much[name] = own.forgetting.above_in_words(fail_above_nats)
    above = dict.fromkeys([] if fail_above is None else result.above(fail_above), "")
    refused = result.refused if fail_refused else {}
    passed_over = result.weights_passed_over if fail_refused else {}
    unanswered = uncounted.keys() | partly.keys() | unpredicted.keys()
    is_answered = result.adapters["adapter"].nunique() > len(unanswered | result.refused.keys())
    start = "" if is_answered else "error: "
    # What is told where there are any: how many they are, the first of them, and why.
    sentences = {
        f"{start}no matrix could be compared in {{}}, the first '{{}}'; {{}}": uncounted,
        f"{start}not every matrix could be compared in {{}}, the first '{{}}'; {{}}": partly,
        f"more intruders than the {fail_above} that --fail-above allows in {{}}, the first '{{}}'": above,
        f"{start}--fail-above-nats has no answer for {{}}, the first '{{}}': {{}}": unpredicted,
        "too much is forgotten by {}, the first '{}': {}": too_much,
        "refused {}, the first '{}': {}": refused,
    }
    told = {sentence: reasons for sentence, reasons in sentences.items() if reasons}
    notes = [
        sentence.format(plural(len(reasons), "adapter"), *next(iter(reasons.items())))
        for sentence, reasons in told.items()
    ]
    if passed_over:
        count, (path, what) = plural(len(passed_over), "entry", "entries"), next(iter(passed_over.items()))
        how = "pass it by its own path, or move it"
        notes.append(f"passed over {count} with weights, the first '{path}' ({what}); {how}")
    if result.nothing_audited:
        (source, why), count = next(iter(result.refused.items())), plural(len(result.refused), "adapter")
        notes.append(f"error: none of {count} could be audited, the first '{source}': {why}")
    if result.nothing_audited or (unanswered and not is_answered):
        return notes, ExitStatus.REFUSED
    return notes, ExitStatus.FAILED if told or passed_over else None
