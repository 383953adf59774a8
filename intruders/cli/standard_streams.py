"""Standard output and error that work in any encoding and survive a reader who stops early."""

import codecs
import io
import os
import sys
from typing import Any

from ..errors import ResultFileError, os_reason
from ..system.notes import show_warnings_as_notes

# All characters beyond ASCII in the texts of the commands. Others, as in names of models, become a question mark.
_READABLE = {
    "…": "...", "±": "+-", "×": "x", "→": "->", "ε": "epsilon", "λ": "lambda",
    "−": "-", "░": ".", "▒": ":", "▓": "*", "█": "#",
}  # fmt: skip
_HANDLER = "intruders.readable"
_STANDARD_ERROR = 2


def ready_streams() -> None:
    """Make the streams of this process forgiving; streams that are not its own, as in tests, stay as they are.

    - A character that the encoding lacks is replaced: a table in latin-1 is better than a traceback.
    - A warning is one line, "note: ...".
    - A reader who leaves (``| head``) misses the rest. The command continues, writes its files, and ends with the
      status that it would have had.
    """
    if os.environ.get("COLUMNS") == "0":  # as some terminals say; a table of no width would be empty
        del os.environ["COLUMNS"]
    if sys.stdout is not None and sys.stdout is sys.__stdout__:
        sys.stdout = forgiving(sys.stdout)
    if sys.stderr is not None and sys.stderr is sys.__stderr__:
        sys.stderr = forgiving(sys.stderr)
        show_warnings_as_notes()


def forgiving(stream: Any) -> io.TextIOWrapper:
    codecs.register_error(_HANDLER, _replaced)
    raw = io.BufferedWriter(_Raw(stream.fileno(), "w", closefd=False))
    return io.TextIOWrapper(raw, encoding=stream.encoding, errors=_HANDLER, line_buffering=True)


class _Raw(io.FileIO):
    """A file that writes until nobody reads any more, and then nowhere."""

    _is_left = False

    def write(self, data: Any) -> int | None:  # type: ignore[override]
        if not self._is_left:
            try:
                return super().write(data)
            except BrokenPipeError:
                self._is_left = True
            except OSError as error:
                self._is_left = True
                if self.fileno() != _STANDARD_ERROR:  # a result and its status need no messages
                    raise ResultFileError(
                        f"cannot write to standard output: {os_reason(error)}; "
                        "choose another place, or make room"
                    ) from error
        return memoryview(data).nbytes


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    return "".join(_READABLE.get(character, "?") for character in characters), error.end
