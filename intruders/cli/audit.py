"""``intruders audit``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..audits.audit_settings import AuditSettings, Compute
from ..checkpoints.stored.locate import DEMO_ADAPTER
from ..errors import SettingError
from ..system.this_process import ExitStatus
from . import options, setting_options
from .command import examples
from .output import (
    check_html,
    check_json,
    check_limit,
    note,
    put_results,
    refusal_as_sarif,
    report_if_possible,
    say,
)

if TYPE_CHECKING:
    from ..audits.result.audit_result import Audit

DEMO_REPORT = Path("intruders-demo.html")


@examples(
    (
        "Audit a LoRA adapter and save the report as HTML",
        "intruders audit smollm2-135m my-adapter --html report.html",
    ),
    (
        "Exit with status 1 if there are more than 20 intruders",
        "intruders audit base-model tuned-model --fail-above 20",
    ),
)
@setting_options.of(AuditSettings, "settings", first=["k", "epsilon"])
@setting_options.of(Compute, "compute")
@options.with_cache_and_device
def audit(
    base: options.BaseUnlessDemo = None,
    tuned: options.Tuned = None,
    demo: Annotated[
        bool,
        typer.Option(
            "--demo",
            help=f"Audit a small adapter that ships with the package and write the report {DEMO_REPORT}. "
            "The model minilm-l6 must be installed.",
        ),
    ] = False,
    *,
    settings: AuditSettings,
    compute: Compute,
    json: options.JsonOrStdout = None,
    parquet: Annotated[Path | None, options.parquet_of("vector")] = None,
    html: options.Html = None,
    sarif: options.Sarif = None,
    fail_above: Annotated[int | None, options.fail_above_of("there are")] = None,
    verbose: Annotated[bool, options.verbose_of("matrix")] = False,
) -> None:
    """Find the intruder dimensions of a fine-tuned model.

    Prints a table. --json, --parquet and --html save the result.
    """
    from rich.console import Console

    from ..audits.audit import audit as find_intruders
    from ..reports.audit import print_audit, write_html
    from ..system.files import check_writable, write_atomically
    from .progress import progress_bar

    if demo:
        if base is not None:
            raise SettingError(f"--demo was given together with the model '{base}'; pass one of the two")
        base, tuned = DEMO_ADAPTER.base, DEMO_ADAPTER.alias
        html = html or _demo_report()
    elif base is None:
        raise SettingError(
            "no model was given; expected BASE TUNED, or an adapter that names its base; "
            "run intruders audit --demo to see an example"
        )
    with refusal_as_sarif(sarif, str(tuned or base)), progress_bar() as progress:
        check_json(json)
        check_limit(fail_above)
        if parquet is not None:
            check_writable(parquet)
        check_html(html)
        result = find_intruders(base, tuned, **vars(settings), **vars(compute), progress=progress)
    notes, status = ([], None) if fail_above is None else _verdict(result, fail_above)
    # Write files first: they must survive a reader of the table that stops early (`| head`).
    if parquet is not None:
        write_atomically(parquet, result.to_parquet())
    if sarif is not None:
        from ..reports.sarif import audit_findings, write_sarif

        write_sarif(audit_findings(result, fail_above), sarif, is_refused=status is ExitStatus.REFUSED)
    if not put_results(result.to_document(), json, html, lambda file: write_html(result, file)):
        print_audit(result, Console(), verbose=verbose)
        if demo and html is not None:
            say(["", f"report: {html.resolve()}"], whole=True)
    for line in notes:
        note(line)
    if status is not None:
        raise typer.Exit(status)


def _verdict(result: Audit, fail_above: int) -> tuple[list[str], ExitStatus | None]:
    """Return what is told beside the result, and the status to exit with; None where the gate passes."""
    from ..audits.result import summary

    why = summary.why_left_open(result.matrices, result.skipped, result.settings, fail_above)
    if why is not None:
        what = "does not count every matrix" if result.matrices else "has nothing to count"
        return [f"error: --fail-above {what}: {why}"], ExitStatus.REFUSED
    if not result.matrices:
        return [summary.unchanged_in_words(result.base_source, result.tuned_source)], None
    spoilt = summary.matrices_not_finite(result.skipped)
    notes = [summary.not_finite_in_words(spoilt)] if spoilt else []
    if result.intruders <= fail_above:
        return notes, None
    above = f"{result.intruders} intruders, more than the {fail_above} that --fail-above allows"
    return [*notes, above], ExitStatus.FAILED


def _demo_report() -> Path | None:
    """Where the report goes unless told otherwise; None, and a line that says so, where none can be made."""
    from ..reports.page.html_page import check_can_write_html

    with report_if_possible():
        check_can_write_html(DEMO_REPORT)
        return DEMO_REPORT
    return None
