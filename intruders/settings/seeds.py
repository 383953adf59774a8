"""The seeds of a call, refused before the work that they are for."""

from __future__ import annotations

from numbers import Integral

from ..errors import SettingError

SEEDS = 2**32  # that numpy knows, and with it a training
A_SEED = f"a whole number from 0 to {SEEDS - 1}"


def check_seeds(**seeds: object) -> None:
    """Raise SettingError for a seed that is no whole number of 0 or more; None is a seed that was left out.

    >>> check_seeds(seed=0, data_seed=None)
    """
    for name, seed in seeds.items():
        if seed is not None and (not isinstance(seed, Integral) or isinstance(seed, bool) or int(seed) < 0):
            raise SettingError(f"{name} is {seed!r}; expected a whole number, 0 or more")
