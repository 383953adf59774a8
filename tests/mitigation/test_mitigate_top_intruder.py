"""``which="top"`` scales one intruder of each matrix, the strongest, against decompositions by numpy alone."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor, nn

from intruders.errors import SettingError
from intruders.mitigation.mitigation_result import Mitigation
from intruders.mitigation.remedies.every_remedy import remedy_named
from intruders.reports.mitigation import mitigation_lines
from tests.mitigation.hot import merged_from, mitigated

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


def of_the_top(folder: Path, out: Path, **settings: str) -> Mitigation:
    return mitigated(folder, scale=SCALE, which="top", out=out, check=False, **settings)


@pytest.mark.parametrize("control", ["intruders", "neighbours", "shrink", "random", "update"])
def test_one_vector_of_each_matrix_is_scaled_the_strongest_intruder_or_what_takes_its_place(
    tmp_path: Path, folder: Path, base: nn.Module, tuned: dict[str, Tensor], control: str
) -> None:
    result = of_the_top(folder, tmp_path / "out", control=control)
    written = merged_from(tmp_path / "out", copy.deepcopy(base))
    assert sum(matrix.intruders > 1 for matrix in result.matrices) > 3  # so that all is not top
    for matrix in result.matrices:
        by_hand = ByHand(base.state_dict()[matrix.name], tuned[matrix.name])
        top = by_hand.intruders[0]
        nearest = min(by_hand.others, key=lambda place: (abs(place - top), place))
        update = by_hand.tuned - by_hand.base
        left = np.linalg.norm(by_hand.scaled(top) - by_hand.base) / np.linalg.norm(update)
        wanted = {
            "intruders": ([top], by_hand.scaled(top)),
            "neighbours": ([nearest], by_hand.scaled(nearest)),
            "shrink": ([top], by_hand.base + left * update),
        }
        assert len(matrix.scaled) == 1
        if control in wanted:
            places, weight = wanted[control]
            assert matrix.scaled == places
            assert np.abs(written[matrix.name].numpy() - weight).max() < ROUNDING * np.abs(weight).max()


def test_the_sentence_names_the_strongest(tmp_path: Path, folder: Path) -> None:
    result = of_the_top(folder, tmp_path / "out")
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
