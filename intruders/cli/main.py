"""The application: its commands, and how an error reaches a person."""

from __future__ import annotations

import sys
import traceback
from typing import NoReturn

import typer

from ..errors import IntrudersError, missing_extra
from ..models.quiet import hush_imports
from ..system.exit_status import ExitStatus
from ..version import __version__
from .advise import advise
from .audit import audit
from .cache import cache
from .card import card
from .command import Command, CommandOnRay, examples_of, summary_of
from .evaluate import evaluate
from .finetune import finetune
from .fleet import fleet
from .inspect import inspect
from .intervene import intervene
from .mitigate import mitigate
from .prepare import prepare
from .remedies import remedies
from .report import report
from .scale import scale
from .sequence import sequence
from .standard_streams import ready_streams
from .study import study
from .verify import verify

# What the extra `train` installs and training and evaluation import where they need it.
_OF_TRAINING = {"accelerate", "datasets", "peft", "scipy", "transformers", "yaml"}

app = typer.Typer(
    name="intruders",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="See what fine-tuning did to the weights of your model.",
    epilog="Run 'intruders COMMAND --help' for the options and two examples.",
)
for command in (
    audit,
    report,
    card,
    inspect,
    verify,
    mitigate,
    scale,
    intervene,
    remedies,
    finetune,
    evaluate,
    sequence,
    advise,
    prepare,
    cache,
):
    app.command(cls=Command, short_help=summary_of(command), epilog=examples_of(command))(command)
for command in (fleet, study):
    app.command(cls=CommandOnRay, short_help=summary_of(command), epilog=examples_of(command))(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"intruders {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Show the version."
    ),
) -> None:
    """Take the options before any command."""
    hush_imports()  # of whatever package a command comes to load


def main() -> None:
    """Run the command line; errors that a user can act on are one line and exit status 2."""
    ready_streams()
    try:
        app()
    except IntrudersError as error:
        _refuse(error)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in _OF_TRAINING:
            _refuse(missing_extra("this command", package, "train"))
        _confess()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(ExitStatus.INTERRUPTED)
    except Exception:
        _confess()


def _refuse(error: IntrudersError) -> NoReturn:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(ExitStatus.REFUSED)


def _confess() -> NoReturn:
    """Show a fault of ours whole, with a status that no gate takes for its answer, as Python's own 1 would be."""
    traceback.print_exc()
    sys.exit(ExitStatus.FAULT)
