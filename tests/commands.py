"""The command line in the tests' own process: the same ``main``, without a new start of Python and torch for each call.

What only a process of its own can show (its imports, signals, a pipe that breaks) is tested with :func:`in_a_process`.
"""

import io
import logging
import multiprocessing
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, chdir, contextmanager, redirect_stderr, redirect_stdout
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any, TextIO
from unittest import mock

from intruders.cli.main import main
from intruders.system.notes import each_note_once

# What Python shows of warnings when nobody asked for more.
_HIDDEN = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)


def environment() -> dict[str, str]:
    """Without a terminal's colors or width, and off the network."""
    kept = {name: value for name, value in os.environ.items() if name not in {"FORCE_COLOR", "COLUMNS"}}
    return {**kept, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def in_a_process(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "intruders", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env=environment()
    )


def in_this_process(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The same status and the same texts, with warnings and what libraries log among those on standard error."""
    argv = ["intruders", *map(str, arguments)]
    said, complained, status = io.StringIO(), io.StringIO(), 0
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(sys, "argv", argv))
        stack.enter_context(mock.patch.dict(os.environ, environment(), clear=True))
        stack.enter_context(chdir(cwd or Path.cwd()))
        stack.enter_context(redirect_stdout(said))
        stack.enter_context(redirect_stderr(complained))
        stack.enter_context(_warnings_on(complained))
        stack.enter_context(_logs_on(complained))
        try:
            main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
    return subprocess.CompletedProcess(argv, status, said.getvalue(), complained.getvalue())


def printed(*arguments: str | Path, cwd: Path | None = None) -> str:
    """What a command prints that ends with status 0."""
    done = in_this_process(*arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refusal(*arguments: str | Path, cwd: Path | None = None) -> str:
    """The one line of a command that is refused: with status 2, and nothing on standard output."""
    done = in_this_process(*arguments, cwd=cwd)
    assert (done.returncode, done.stdout) == (2, ""), done
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def forked(do: Callable[..., Any], *arguments: Any) -> ForkProcess:
    """A process that calls ``do``, for what kills it or where several are at once; it has loaded what this one has.

    A new start of Python would load torch, transformers and PEFT again, for longer than a tiny model trains.
    """
    process = multiprocessing.get_context("fork").Process(target=do, args=arguments)
    process.start()
    return process


@contextmanager
def _warnings_on(stream: TextIO) -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        for category in _HIDDEN:
            warnings.simplefilter("ignore", category)
        # As in a process of its own, whose streams the command makes ready.
        noted = each_note_once()
        warnings.showwarning = lambda *given, **named: stream.write(noted(*given[:4]))
        yield


@contextmanager
def _logs_on(stream: TextIO) -> Iterator[None]:
    """Handlers of libraries hold the standard error of the time when they were made."""
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    handlers = {
        handler
        for logger in loggers
        if isinstance(logger, logging.Logger)
        for handler in logger.handlers
        if type(handler) is logging.StreamHandler
    }
    before = {handler: handler.stream for handler in handlers}
    try:
        for handler in before:
            handler.stream = stream  # without a flush of the old one, which a runner of tests may have closed
        yield
    finally:
        for handler, old in before.items():
            handler.stream = old


def without_loading(
    modules: Sequence[str], *commands: Sequence[str | Path], before: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run commands one after another in one new process, after the code ``before``; it fails if it loads a module."""
    words = [list(map(str, command)) for command in commands]
    script = (
        f"import sys\n{before}"
        "from intruders.cli.main import app\n"
        f"for words in {words!r}: app(words, standalone_mode=False)\n"
        f"assert not {set(modules)!r} & set(sys.modules)\n"
    )
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
