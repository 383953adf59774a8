"""Commands in this process, which raise what they raise."""

from __future__ import annotations

from pathlib import Path

import typer
from typer.testing import CliRunner

from intruders.cli.audit import audit
from intruders.cli.evaluate import evaluate
from intruders.cli.experiments import intervene
from intruders.cli.mitigate import mitigate
from intruders.cli.scale import scale

app = typer.Typer()
for command in (audit, evaluate, mitigate, scale, intervene):
    app.command()(command)


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output
