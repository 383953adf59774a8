"""A text that tiny bases are healed on."""

from __future__ import annotations

import json

import pytest


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("text") / "text.jsonl"
    rows = [{"text": f"{number} The base knows this text, number {number * 37 % 11}."} for number in range(8)]
    file.write_text("\n".join(map(json.dumps, rows)))
    return str(file)
