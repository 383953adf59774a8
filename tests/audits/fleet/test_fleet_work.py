"""What a fleet leaves to do, and that a model is the same done alone or with others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from intruders.audits.audit_settings import AuditSettings, Compute
from intruders.audits.fleet.fleet_files import FleetFiles
from intruders.audits.fleet.fleet_members import Member
from intruders.audits.fleet.fleet_work import FleetWork, grouped_blocks
from intruders.checkpoints.pairing.pairing import PairedMatrix, Pairing
from intruders.linalg.low_rank import LowRank
from intruders.linalg.pair import Pair
from intruders.system.store import Store

NAMES = [f"layers.{layer}.{part}.weight" for layer in range(3) for part in ("q", "o")] + ["head.weight"]


def member(number: int, names: Sequence[str] = NAMES, digest: str | None = None) -> Member:
    """A model with an update of rank 2 in each of these matrices, strong in some."""
    pairs = []
    for position, name in enumerate(NAMES):
        base = np.random.default_rng(position).standard_normal((40, 30)) / 5
        generator = np.random.default_rng([number, position])
        left, right = generator.standard_normal((40, 2)), generator.standard_normal((2, 30))
        left *= (0.2, 3.0, 6.0)[(number + position) % 3] / np.linalg.norm(left @ right, 2)
        pair = Pair(
            torch.from_numpy(base).float(),
            LowRank(torch.from_numpy(left).float(), torch.from_numpy(right).float()),
        )
        if name in names:
            pairs.append(PairedMatrix(name, (40, 30), 2, lambda pair=pair: pair))  # type: ignore[misc]
    pairing = Pairing("base", f"model {number}", "adapter", pairs, [])
    return Member(f"model {number}", digest or f"digest {number}", pairing=pairing)


def work(folder: Path, *members: Member) -> FleetWork:
    base: Any = SimpleNamespace(names=lambda: NAMES, tied={})
    files = FleetFiles(Store(folder), "0" * 64)
    settings = AuditSettings(k=5)
    return FleetWork(base, list(members), settings, Compute(cache=False, workers=1), files)


def rows_of(folder: Path) -> dict[tuple[str, str], list[tuple[int, bool]]]:
    """By model and matrix, the decision about every vector."""
    rows: dict[tuple[str, str], list[tuple[int, bool]]] = {}
    for block in FleetFiles(Store(folder), "0" * 64).blocks():
        for row in block.rows().to_pylist():
            rows.setdefault((row["adapter"], row["name"]), []).append((row["index"], row["intruder"]))
    return rows


def test_what_is_kept_is_not_done_again_and_a_further_model_costs_itself(tmp_path: Path) -> None:
    first = work(tmp_path, member(0), member(1))
    missing = first.missing()
    assert list(missing) == ["layers.0", "layers.1", "layers.2", "outside the layers"]
    assert {number for sharers in missing["layers.1"].values() for number, _ in sharers} == {0, 1}
    done: list[tuple[int, int]] = []
    first.do(missing, lambda stage, at, of: done.append((at, of)))
    assert done[-1] == (len(NAMES), len(NAMES))
    assert first.missing() == {}
    further = work(tmp_path, member(0), member(1), member(2))
    left = further.missing()
    assert {number for several in left.values() for sharers in several.values() for number, _ in sharers} == {
        2
    }
    files = set((tmp_path / "blocks").iterdir())
    further.do(left)
    assert further.missing() == {}
    assert files < set((tmp_path / "blocks").iterdir())  # files are added and none is written again


def test_a_model_is_the_same_alone_and_with_others(tmp_path: Path) -> None:
    together = work(tmp_path / "together", member(0), member(1), member(2, NAMES[:2]))
    together.do(together.missing())
    for number, names in ((0, NAMES), (1, NAMES), (2, NAMES[:2])):
        alone = work(tmp_path / "alone", member(number, names))
        alone.do(alone.missing())
    mine, theirs = rows_of(tmp_path / "together"), rows_of(tmp_path / "alone")
    assert mine == theirs
    assert len(mine) == 2 * len(NAMES) + 2
    assert any(intruder for rows in mine.values() for _, intruder in rows)
    # The sums of the sketches too, by which models are found that are alike.
    sketches = [
        {
            (block.block, digest): unit.sketch
            for block in FleetFiles(Store(tmp_path / way), "0" * 64).blocks()
            for digest, unit in block.units.items()
        }
        for way in ("together", "alone")
    ]
    assert sketches[0].keys() == sketches[1].keys()
    for key, sketch in sketches[0].items():
        torch.testing.assert_close(sketch, sketches[1][key], rtol=1e-4, atol=1e-5)


def test_equal_models_are_done_once(tmp_path: Path) -> None:
    twice = work(tmp_path, member(0, digest="same"), member(0, digest="same"))
    missing = twice.missing()
    assert {len(sharers) for several in missing.values() for sharers in several.values()} == {1}
    twice.do(missing)
    assert {digest for digest, _ in rows_of(tmp_path)} == {"same"}


@pytest.mark.parametrize(
    ("missing", "groups"),
    [
        ({"a": [0], "b": [0], "c": [0]}, [["a", "b", "c"]]),
        ({"a": [0, 1], "b": [0], "c": [0], "d": [1]}, [["a"], ["b", "c"], ["d"]]),
        ({"a": [0], "b": [1], "c": [0]}, [["a"], ["b"], ["c"]]),
        ({}, []),
    ],
)
def test_neighbors_that_lack_one_and_the_same_model_are_done_together(
    missing: dict[str, list[int]], groups: list[list[str]]
) -> None:
    matrix: Any = None
    blocks = {block: {"m": [(model, matrix) for model in models]} for block, models in missing.items()}
    assert [list(group) for group in grouped_blocks(blocks)] == groups


def test_blocks_are_done_together_up_to_a_number_of_matrices() -> None:
    matrix: Any = None
    blocks = {str(block): {f"m{at}": [(0, matrix)] for at in range(25)} for block in range(7)}
    assert [len(group) for group in grouped_blocks(blocks)] == [3, 3, 1]  # full from 60 matrices on
