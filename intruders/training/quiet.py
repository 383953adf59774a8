"""Keep transformers' progress bars and advice off the terminal while we use it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Within the block transformers logs errors only and shows no bars; afterwards as it was.

    Its deprecation warnings are about its own and PEFT's calls, which a user of ours cannot change.
    """
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            # We convert such adapters on saving, as PEFT here advises.
            warnings.filterwarnings("ignore", message=".*changes the base weights of the model")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
