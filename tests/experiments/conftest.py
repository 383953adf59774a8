"""A text that tiny bases are healed on."""

from __future__ import annotations

import pytest

from tests.tiny import short_texts


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(short_texts(tmp_path_factory.mktemp("text") / "text.jsonl", 8))
