"""Errors that a person can act on.

Every error raised on purpose derives from :class:`IntrudersError`. Its text is one line that quotes what was
given, says what was expected, and what to do; the command line prints it and exits with status 2.
"""

_SHOWN = 3  # names in an error of one line
_MOST_SAID = 300  # characters of what a library said


class IntrudersError(Exception):
    """Something the caller gave cannot be used; the text says what, why, and what to do."""


class SettingError(IntrudersError):
    """A setting is outside its range (k < 1, epsilon outside (0, 1], ...)."""


class CheckpointError(IntrudersError):
    """A checkpoint or adapter cannot be found, read, or believed."""


class ChangedBaseError(CheckpointError):
    """A base is no longer what it was when the work began; nothing that is read of it counts."""


class ChangedFileError(CheckpointError):
    """A file is no longer what it was when it was opened; what is read of it would be of two models."""


class PairingError(IntrudersError):
    """Base and tuned do not belong together (other architecture, module not found, wrong shape)."""


class NonFiniteError(IntrudersError):
    """A matrix holds NaN or infinity, so that its singular vectors do not exist."""


class MissingDependencyError(IntrudersError):
    """An optional package is not installed; the text says which one and how to install it."""


class NotEnoughMemoryError(IntrudersError):
    """A model does not fit in memory; the text says what it needs, what there is, and what to pass."""


def missing_extra(purpose: str, package: str, extra: str) -> MissingDependencyError:
    """The error for `package`, which `purpose` needs, with the command of a clone: no registry has the package."""
    return MissingDependencyError(
        f"{purpose} needs the package '{package}', which is not installed; "
        f"run pip install '.[{extra}]' in your clone of intruders"
    )


class ResultFileError(IntrudersError):
    """A result file cannot be written, read, or believed."""


class NewerVersionError(ResultFileError):
    """A newer version wrote a result file; this one cannot tell what it means."""


class CacheError(IntrudersError):
    """The cache folder cannot be used; the text says why and what to do."""


class EndpointError(IntrudersError):
    """A server of models cannot be reached, or does not answer what was asked."""

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status  # of HTTP, where it answered


class DiskFullError(IntrudersError):
    """There is no room for further results."""


class StoreError(IntrudersError):
    """The place of the results cannot be reached, read or written."""


def in_one_line(error: BaseException) -> str:
    """An error as a person reads it in a list; one that was not raised for people says its type too."""
    text = " ".join(str(error).split()) or "no reason given"
    text = text if len(text) <= 500 else f"{text[:497]}..."
    return text if isinstance(error, IntrudersError) else f"{type(error).__name__}: {text}"


def what_is_wrong(error: IntrudersError) -> str:
    """The first part of an error's text, for a caller that knows better what was expected and what to do.

    >>> what_is_wrong(ResultFileError("'notes; old/a.json' is damaged; expected an audit; fetch it again"))
    "'notes; old/a.json' is damaged"
    """
    text = str(error)
    quoted = max(text.find("' "), 0) if text.startswith("'") else 0
    end = text.find("; ", quoted)
    return text if end < 0 else text[:end]


def first_line(error: BaseException) -> str:
    """The first line of what a library said, as a part of a line, without what a terminal would obey."""
    return _part_of_line(next((line for line in str(error).splitlines() if line.strip()), ""), error)


def all_lines(error: BaseException) -> str:
    """The same of all lines, joined: torch, for one, says in the later ones which sizes differ."""
    return _part_of_line(" ".join(str(error).split()), error)


def _part_of_line(text: str, error: BaseException) -> str:
    said = text[:_MOST_SAID] or type(error).__name__
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in said)


def os_reason(error: Exception) -> str:
    """What the system said of a file, without its number and name; of another error its text."""
    return getattr(error, "strerror", None) or str(error)


def some_of(names: list[str]) -> str:
    """``'a', 'b', 'c' (and 4 more)``: enough names for an error of one line."""
    shown = ", ".join(f"'{name}'" for name in names[:_SHOWN])
    return f"{shown} (and {len(names) - _SHOWN} more)" if len(names) > _SHOWN else shown
