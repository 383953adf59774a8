"""The application: its commands, and how an error reaches a person."""

import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import typer

from ..errors import IntrudersError, missing_extra
from ..models.quiet import hush_imports
from ..system.out_of_memory import is_out_of_memory, told_in_one_line
from ..system.this_process import ExitStatus, keep_freed_memory, use_large_pages
from ..system.versions import leave_busy_cores
from ..version import __version__
from .audit import audit, fleet
from .command import Commands, add_to
from .experiments import attribute, evaluate, heal, intervene, remedies
from .housekeeping import cache, plugins, prepare
from .look import inspect, verify
from .mitigate import mitigate
from .output import note, say
from .report import card, report
from .scale import scale
from .standard_streams import ready_streams
from .study import study
from .train import finetune, sequence

# What the extra `train` installs and training and evaluation import where they need it.
_OF_TRAINING = {"accelerate", "datasets", "peft", "psutil", "scipy", "transformers", "yaml"}

app = typer.Typer(
    cls=Commands,
    name="intruders",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Start here: audit, evaluate, heal.\n\nSee what fine-tuning did to the weights of your model.",
    epilog="Run 'intruders COMMAND --help' for the options and two examples, --help-all for every option.",
)
# The commands in the groups that `intruders --help` shows.
GROUPS: Mapping[str, Sequence[Callable[..., None]]] = {
    "Look": (audit, fleet, inspect, report, card, verify),
    "Measure": (evaluate, attribute, scale, intervene, remedies),
    "Heal and change": (heal, mitigate),
    "Train and study": (finetune, sequence, study),
    "Housekeeping": (prepare, cache, plugins),
}
# Their memory is that of a model and its activations. Others take one matrix after another, and give back each.
_RUN_MODELS = {member.__name__ for member in (heal, *GROUPS["Measure"], *GROUPS["Train and study"])}
for group, members in GROUPS.items():
    for member in members:
        add_to(app, member, rich_help_panel=group)


def _print_version(wanted: bool) -> None:
    if wanted:
        say([f"intruders {__version__}"])
        raise typer.Exit


_VERSION = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Show the version.")


@app.callback()
def _options(context: typer.Context, version: bool = _VERSION) -> None:
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
        if type(error).__name__ == "NoArgsIsHelpError":  # nothing was typed at all, which the help answers
            error.show()  # type: ignore[attr-defined]
            sys.exit(ExitStatus.REFUSED)
        # The home of typer's errors differs between its versions.
        if callable(getattr(error, "format_message", None)) and hasattr(error, "exit_code"):
            _refuse(_usage_error_line(error))
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


def _usage_error_line(error: Any) -> str:
    """Return the error in one line, with the typed value and the command whose help lists the others."""
    message = " ".join(str(error.format_message()).split()).rstrip(".")
    parameter = getattr(error, "param", None)
    typed = None if parameter is None else _typed(parameter.opts, sys.argv)
    if typed is not None:
        message = message.replace("Invalid value for", f"'{typed}' is not a value of", 1)
    context = getattr(error, "ctx", None)
    # As people type it, also if Python was asked to run the package.
    command = "intruders" if context is None or context.parent is None else f"intruders {context.info_name}"
    return f"{message}; see '{command} --help'"


def _typed(names: Sequence[str], words: Sequence[str]) -> str | None:
    """Return the word after the last of an option's names; None for an argument, or if it was not typed."""
    typed = None
    for word, following in zip(words, [*words[1:], None], strict=True):
        name, is_joined, value = word.partition("=")
        if name in names and name.startswith("-"):
            typed = value if is_joined else following
    return typed
