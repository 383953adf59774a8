"""The statuses with which every command ends."""

from __future__ import annotations

from enum import IntEnum


class ExitStatus(IntEnum):
    """The exit statuses of the commands."""

    DONE = 0
    FAILED = 1  # the work was done, and the answer is no: more than --fail-above, a wrong merge, a failed run
    # Nothing was done: an option, a file or a model cannot be used, or of a fleet no adapter; one line says what to do.
    REFUSED = 2
    NOT_TOLD = 3  # verify alone: rounding or quantization hides the answer
    FAULT = 70  # a fault of intruders, with a traceback; sysexits.h calls it EX_SOFTWARE
    INTERRUPTED = 130  # Ctrl-C; 128 and the number of the signal, as a shell says it
    TERMINATED = 143  # SIGTERM, as a scheduler sends it before it kills
