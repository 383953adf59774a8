"""Which runs are compared: those on the same documents, whatever machine measured them."""

import pandas as pd
import pytest

from intruders_research.claims.shared.strata import LOSS_ALIKE, finished, strata
from tests.studies.planted import run, study


def runs_with(base_losses: list[float | None]) -> pd.DataFrame:
    made = [run(f"run-{number}", base_loss=loss, seed=number) for number, loss in enumerate(base_losses)]
    return finished(study(runs=made).runs)


def seeds_compared(base_losses: list[float | None]) -> tuple[list[int], tuple[str, ...]]:
    (stratum,) = strata(runs_with(base_losses), LOSS_ALIKE)
    return [int(seed) for seed in stratum.runs["seed"]], stratum.notes


@pytest.mark.parametrize("other", [2.8751, 2.86, 3.1, None])
def test_the_loss_of_other_documents_is_another(other: float | None) -> None:
    seeds, (note,) = seeds_compared([2.874, other, 2.874, other, 2.874])
    assert seeds == [0, 2, 4]
    assert "2 of 5 were measured in another way" in note


def test_runs_on_one_machine_have_no_note() -> None:
    assert seeds_compared([2.874, 2.874]) == ([0, 1], ())
