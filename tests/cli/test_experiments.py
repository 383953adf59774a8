"""`intruders intervene` as a person types it."""

from __future__ import annotations

import json
from pathlib import Path

from tests.commands import printed
from tests.json_lines import write_rows


def test_intervene(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("a text of some words\n\n" * 4)
    corpus = tmp_path / "rows.jsonl"
    write_rows(corpus, [{"text": f"row {i} of words"} for i in range(5)])
    text = printed(
        "intervene", folder / "base", folder / "tuned", "--scales", "0,0.5,1", "--controls", "shrink",
        "--loss-on", corpus, "--json", tmp_path / "sweep.json",
    )  # fmt: skip
    assert "at scale 0.5 loss on" in text
    assert len(json.loads((tmp_path / "sweep.json").read_text())["points"]) == 4
