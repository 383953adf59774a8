"""Keep transformers' progress bars and advice off the terminal while we use it."""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import MissingDependencyError, missing_extra

_LOWEST = (4, 56)  # version of transformers, as in pyproject.toml: those before it load no model by ``dtype``


def hush_imports() -> None:
    """Keep bitsandbytes, which PEFT imports where it is installed, from telling what it could load faster."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Let transformers log errors only and show no bars within the block; MissingDependencyError if it is too old."""
    from huggingface_hub import utils

    hub: Any = utils  # whose functions are documented, and not exported as type checkers want it
    try:
        import transformers
        from transformers.utils import logging as theirs
    except ImportError as error:
        raise missing_extra("loading a model for training or evaluation", "transformers", "train") from error
    numbers = tuple(int(number) for number in re.findall(r"\d+", transformers.__version__)[:2])
    if numbers < _LOWEST:
        raise MissingDependencyError(
            f"transformers {transformers.__version__} is too old for this; expected {_LOWEST[0]}.{_LOWEST[1]} or "
            "later; run pip install '.[train]' in your clone of intruders"
        )
    level, bars = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    hub_is_quiet = hub.are_progress_bars_disabled()
    theirs.set_verbosity_error()
    theirs.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            # We convert such adapters on saving, as PEFT here advises.
            warnings.filterwarnings("ignore", message=".*changes the base weights of the model")
            # No training here changes a vocabulary, which PEFT cannot compare with the base's offline.
            warnings.filterwarnings("ignore", message=".*assume that the vocabulary was not modified")
            yield
    finally:
        theirs.set_verbosity(level)
        if bars:
            theirs.enable_progress_bar()
        # transformers switches the bars of huggingface_hub with its own, and the caller may have set these otherwise.
        if hub.are_progress_bars_disabled() != hub_is_quiet:
            (hub.disable_progress_bars if hub_is_quiet else hub.enable_progress_bars)()
