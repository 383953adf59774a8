"""Errors that a person can act on.

Every error raised on purpose derives from :class:`IntrudersError`. Its text is one line that quotes what was
given, says what was expected, and what to do; the command line prints it and exits with status 2.
"""


class IntrudersError(Exception):
    """Something the caller gave cannot be used; the text says what, why, and what to do."""


class SettingError(IntrudersError):
    """A setting is outside its range (k < 1, epsilon outside (0, 1], ...)."""


class CheckpointError(IntrudersError):
    """A checkpoint or adapter cannot be found, read, or believed."""


class PairingError(IntrudersError):
    """Base and tuned do not belong together (other architecture, module not found, wrong shape)."""


class NonFiniteError(IntrudersError):
    """A matrix holds NaN or infinity, so that its singular vectors do not exist."""


class MissingDependencyError(IntrudersError):
    """An optional package is not installed; the text says which one and how to install it."""


def missing_extra(purpose: str, package: str, extra: str) -> MissingDependencyError:
    """The error for `package`, which `purpose` needs and which the optional dependencies `extra` install.

    The command is that of a clone, because no registry has the package.
    """
    return MissingDependencyError(
        f"{purpose} needs the package '{package}', which is not installed; "
        f"run pip install '.[{extra}]' in your clone of intruders"
    )
