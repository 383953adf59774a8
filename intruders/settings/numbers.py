"""What counts as a number in an argument, Python's and numpy's and never true or false; and the seeds of a call."""

from numbers import Integral, Real

from ..errors import SettingError


def is_whole(value: object) -> bool:
    """Return whether it is a whole number.

    >>> is_whole(3), is_whole(True), is_whole(3.0), is_whole("3")
    (True, False, False, False)
    """
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Return whether it is a real number.

    >>> is_number(0.5), is_number(True), is_number("0.5")
    (True, False, False)
    """
    return isinstance(value, Real) and not isinstance(value, bool)


SEEDS = 2**32  # that numpy knows, and with it a training
A_SEED = f"a whole number from 0 to {SEEDS - 1}"


def check_seeds(**seeds: object) -> None:
    """Raise SettingError for a seed that is no whole number of 0 or more; None is a seed that was left out."""
    for name, seed in seeds.items():
        if seed is not None and (not isinstance(seed, Integral) or isinstance(seed, bool) or int(seed) < 0):
            raise SettingError(f"{name} is {seed!r}; expected a whole number, 0 or more")
