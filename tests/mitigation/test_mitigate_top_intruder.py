"""``which="top"`` scales one intruder of each matrix, the strongest, against decompositions by numpy alone."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor, nn

from intruders.errors import SettingError
from intruders.mitigation.mitigate import mitigate
from intruders.mitigation.remedies.every_remedy import remedy_named
from intruders.reports.mitigation import mitigation_lines
from tests.mitigation.hot import merged_from

SCALE = 0.3
# Weights are written in single precision: its rounding, over sums along rows of a few hundred entries.
ROUNDING = 1e-3


class ByHand:
    """The paper's words for one matrix: dense SVDs of W0 and W, and ``W + (lambda - 1) s u v^T``."""

    def __init__(self, base: Tensor, tuned: Tensor) -> None:
        self.base, self.tuned = base.double().numpy(), tuned.double().numpy()
        x = np.linalg.svd(self.base, full_matrices=False)[0]
        self.u, self.s, self.vt = np.linalg.svd(self.tuned, full_matrices=False)
        cosines = np.abs(x.T @ self.u[:, :10]).max(axis=0)
        self.intruders = [int(place) for place in np.flatnonzero(cosines < 0.5)]
        self.others = [place for place in range(len(cosines)) if place not in self.intruders]

    def scaled(self, place: int) -> np.ndarray:
        return self.tuned + (SCALE - 1) * self.s[place] * np.outer(self.u[:, place], self.vt[place])


def written(
    folder: Path, out: Path, base: nn.Module, tuned: dict[str, Tensor], control: str
) -> list[tuple[ByHand, np.ndarray, list[int]]]:
    """By hand, as written, and the places of what was scaled, of every matrix with intruders."""
    result = mitigate(
        folder / "base", folder / "tuned", scale=SCALE, control=control, which="top", out=out, check=False
    )
    found = merged_from(out, copy.deepcopy(base))
    assert sum(matrix.intruders > 1 for matrix in result.matrices) > 3  # so that all is not top
    return [
        (
            ByHand(base.state_dict()[matrix.name], tuned[matrix.name]),
            found[matrix.name].double().numpy(),
            matrix.scaled,
        )
        for matrix in result.matrices
    ]


def assert_near(found: np.ndarray, wanted: np.ndarray) -> None:
    assert np.abs(found - wanted).max() < ROUNDING * np.abs(wanted).max()


def test_the_intruder_with_the_largest_singular_value_is_scaled_and_no_other(
    tmp_path: Path, folder: Path, base: nn.Module, tuned: dict[str, Tensor]
) -> None:
    for by_hand, found, places in written(folder, tmp_path / "out", base, tuned, "intruders"):
        assert places == by_hand.intruders[:1]
        assert_near(found, by_hand.scaled(by_hand.intruders[0]))


def test_its_neighbour_is_the_vector_next_to_it_that_is_none(
    tmp_path: Path, folder: Path, base: nn.Module, tuned: dict[str, Tensor]
) -> None:
    for by_hand, found, places in written(folder, tmp_path / "out", base, tuned, "neighbours"):
        top = by_hand.intruders[0]
        nearest = min(by_hand.others, key=lambda place: (abs(place - top), place))
        assert places == [nearest]
        assert_near(found, by_hand.scaled(nearest))


def test_shrink_takes_the_norm_that_scaling_it_leaves(
    tmp_path: Path, folder: Path, base: nn.Module, tuned: dict[str, Tensor]
) -> None:
    for by_hand, found, _ in written(folder, tmp_path / "out", base, tuned, "shrink"):
        update = by_hand.tuned - by_hand.base
        left = np.linalg.norm(by_hand.scaled(by_hand.intruders[0]) - by_hand.base)
        assert_near(found, by_hand.base + update * left / np.linalg.norm(update))


def test_a_control_that_scales_vectors_scales_one_of_each_matrix(
    tmp_path: Path, folder: Path, base: nn.Module, tuned: dict[str, Tensor]
) -> None:
    for control in ("random", "update"):
        assert {len(places) for *_, places in written(folder, tmp_path / control, base, tuned, control)} == {
            1
        }


def test_the_sentence_names_the_strongest(tmp_path: Path, folder: Path) -> None:
    result = mitigate(
        folder / "base", folder / "tuned", scale=SCALE, which="top", out=tmp_path / "out", check=False
    )
    lines = mitigation_lines(result)
    count = len(result.matrices)
    assert lines[0].startswith(
        f"{count} intruders, the strongest of each matrix, scaled by 0.3, in {count} of"
    )
    assert not any("had no such vector" in line for line in lines)
    assert result.to_document()["intervention"]["settings"]["which"] == "top"


def test_another_word_is_refused() -> None:
    with pytest.raises(SettingError, match="which is 'first'; expected all, or top"):
        remedy_named("shrink", 0.5, 0, "first")
