"""``intruders audit``."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..checkpoints.stored.locate import DEMO_ADAPTER, DEMO_ADAPTERS
from ..errors import SettingError
from ..system.this_process import ExitStatus
from . import options
from .from_verb import command, option
from .output import Outputs, check_limit, check_nats, note, report_if_possible, say

if TYPE_CHECKING:
    from ..audits.result.audit_result import Audit
    from ..reports.terminal import Page

DEMO_REPORT = Path("intruders-demo.html")


@command(
    options.BASE_UNLESS_DEMO,
    options.TUNED,
    option(
        "demo",
        bool,
        f"Audit a small adapter that ships with the package and write the report {DEMO_REPORT}. The model minilm-l6 "
        "must be installed.",
        False,
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
    from ..reports.page.html_page import check_can_write_html
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
        check_limit(fail_above)
        check_nats("fail_above_nats", fail_above_nats)
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
