"""The trace of a training has the columns that its page lists, with the numbers that dense algebra gives."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from intruders.audits.audit import audit
from intruders.training.callback.trace import append_to_trace, read_trace

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "files.md"


def test_the_columns_are_those_of_the_page(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    base = {f"{name}.weight": torch.randn(8, 6, generator=generator) for name in ("up", "down")}
    change = {name: torch.randn(8, 6, generator=generator) for name in base}
    tuned = {name: weight + change[name] for name, weight in base.items()}
    append_to_trace(tmp_path / "trace.parquet", 5, audit(base, tuned, k=2, cache=False), {"up.weight": 0.25})
    trace = read_trace(tmp_path / "trace.parquet")
    [row] = [line for line in PAGE.read_text().splitlines() if line.startswith("| `intruders.parquet`")]
    assert list(trace.columns) == re.findall(r"`(\w+)`", row.split("|")[3])
    for name, rows in trace.groupby("name"):
        dense = np.linalg.svd(base[name].numpy(), compute_uv=False)
        assert rows["base_largest_value"].tolist() == pytest.approx([dense[0]] * 2, rel=1e-5)
        assert rows["update_frobenius"].tolist() == pytest.approx(
            [np.linalg.norm(change[name])] * 2, rel=1e-5
        )
    movement = trace.drop_duplicates("name").set_index("name")["a_movement"]
    assert movement["up.weight"] == 0.25
    assert np.isnan(movement["down.weight"])
