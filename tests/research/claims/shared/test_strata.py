"""Which runs are compared: those on the same documents, whatever machine measured them."""

import pytest

from intruders_research.claims.shared.strata import LOSS_ALIKE, finished, strata
from tests.studies.planted import run, study


@pytest.mark.parametrize("other", [2.8751, 2.86, 3.1, None])
def test_the_loss_of_other_documents_is_another(other: float | None) -> None:
    losses = [2.874, other, 2.874, other, 2.874]
    made = [run(f"run-{number}", base_loss=loss, seed=number) for number, loss in enumerate(losses)]
    (stratum,) = strata(finished(study(runs=made).runs), LOSS_ALIKE)
    assert list(stratum.runs["seed"]) == [0, 2, 4]
    (note,) = stratum.notes
    assert "2 of 5 were measured in another way" in note
