"""What the Hub's library logs while it tries again does not reach a terminal, and its level comes back."""

from __future__ import annotations

import logging
from contextlib import suppress

import pytest

from intruders.data.quiet_hub import quiet_hub


def test_attempts_are_not_told_and_errors_are() -> None:
    pytest.importorskip("huggingface_hub")
    logger = logging.getLogger("huggingface_hub.utils._http")
    above = logging.getLogger("huggingface_hub")
    before = above.level
    with suppress(ConnectionError), quiet_hub():
        assert not logger.isEnabledFor(logging.WARNING)
        assert logger.isEnabledFor(logging.ERROR)
        raise ConnectionError
    assert above.level == before
