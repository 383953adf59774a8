"""The application: its commands, and how an error reaches a person."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

import typer

from ..errors import IntrudersError, missing_extra
from ..models.quiet import hush_imports
from ..system.out_of_memory import is_out_of_memory, told_in_one_line
from ..system.this_process import ExitStatus, keep_freed_memory, use_large_pages
from ..system.versions import leave_busy_cores
from ..version import __version__
from .audit import audit
from .command import Command, CommandOnRay, Commands, summary_of
from .evaluate import evaluate
from .experiments import attribute, heal, intervene, remedies
from .fleet import fleet
from .from_verb import examples_of
from .housekeeping import cache, plugins, prepare
from .look import inspect, verify
from .mitigate import mitigate
from .output import note, say
from .report import card, report
from .scale import scale
from .standard_streams import ready_streams
from .study import study
from .train import finetune, sequence
from .usage_errors import asks_for_help, is_usage_error, usage_error_line

# What the extra `train` installs and training and evaluation import where they need it.
_OF_TRAINING = {"accelerate", "datasets", "peft", "psutil", "scipy", "transformers", "yaml"}

app = typer.Typer(
    cls=Commands,
    name="intruders",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="See what fine-tuning did to the weights of your model.",
    epilog="Run 'intruders COMMAND --help' for the options and two examples.",
)
# The commands in the groups that `intruders --help` shows.
GROUPS: Mapping[str, Sequence[Callable[..., None]]] = {
    "Look": (audit, fleet, inspect, report, card, verify),
    "Measure": (evaluate, attribute, scale, intervene, remedies),
    "Heal and change": (heal, mitigate),
    "Train and study": (finetune, sequence, study),
    "Housekeeping": (prepare, cache, plugins),
}
_ON_RAY = (fleet, prepare, study)
# Their memory is that of a model and its activations. Others take one matrix after another, and give back each.
_RUN_MODELS = {member.__name__ for group in ("Measure", "Train and study") for member in GROUPS[group]} | {
    "heal"
}
for group, members in GROUPS.items():
    for member in members:
        app.command(
            cls=CommandOnRay if member in _ON_RAY else Command,
            short_help=summary_of(member),
            epilog=examples_of(member),
            rich_help_panel=group,
        )(member)


def _print_version(wanted: bool) -> None:
    if wanted:
        say([f"intruders {__version__}"])
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Show the version."
    ),
) -> None:
    """Take the options before any command."""
    hush_imports()  # of whatever package a command comes to load
    use_large_pages()
    if context.invoked_subcommand in _RUN_MODELS:
        keep_freed_memory()
        leave_busy_cores()


def main() -> None:
    """Run the command line; errors that a user can act on are one line and exit status 2."""
    ready_streams()
    try:
        status = app(standalone_mode=False)  # else typer would print its errors, in three lines
    except IntrudersError as error:
        _refuse(error)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in _OF_TRAINING:
            _refuse(missing_extra("this command", package, "train"))
        _confess()
    except KeyboardInterrupt:
        note("interrupted")
        sys.exit(ExitStatus.INTERRUPTED)
    except Exception as error:
        if asks_for_help(error):
            error.show()  # type: ignore[attr-defined]
            sys.exit(ExitStatus.REFUSED)
        if is_usage_error(error):
            _refuse(usage_error_line(error))
        if is_out_of_memory(error):
            _refuse(told_in_one_line(error))
        _confess()
    # typer makes a plain number of Ctrl-C; what the commands return has told of it already.
    if status == ExitStatus.INTERRUPTED and not isinstance(status, ExitStatus):
        note("interrupted")
    sys.exit(status if isinstance(status, int) else ExitStatus.DONE)


def _refuse(error: IntrudersError | str) -> NoReturn:
    note(f"error: {error}")
    sys.exit(ExitStatus.REFUSED)


def _confess() -> NoReturn:
    """Print the traceback and exit with 70, so that CI does not read it as status 1."""
    traceback.print_exc()
    sys.exit(ExitStatus.FAULT)
