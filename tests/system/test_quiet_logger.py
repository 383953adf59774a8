"""What a library logs while it tries again does not reach a terminal, and its level comes back."""

from __future__ import annotations

import logging
from contextlib import suppress

from intruders.system.quiet_logger import errors_only


def test_attempts_are_not_told_and_errors_are() -> None:
    logger = logging.getLogger("huggingface_hub.utils._http")
    above = logging.getLogger("huggingface_hub")
    before = above.level
    with suppress(ConnectionError), errors_only("huggingface_hub"):
        assert not logger.isEnabledFor(logging.WARNING)
        assert logger.isEnabledFor(logging.ERROR)
        raise ConnectionError
    assert above.level == before
