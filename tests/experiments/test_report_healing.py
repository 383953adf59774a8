"""The interpolation that a healing is compared with, on task losses by hand."""

import pytest

from intruders.experiments.report_healing import same_dose


def with_lowest_before_the_end(dose: float) -> float:
    """The task loss falls to 0.36 at the dose 0.8 and is 0.38 at the tuned model, as at 0.6."""
    return 0.36 + 0.5 * (dose - 0.8) ** 2


@pytest.mark.parametrize(
    ("healed", "dose"),
    [
        (0.405, 0.5),  # 0.36 + 0.5 * 0.3 ** 2
        (0.36125, 0.75),  # 0.36 + 0.5 * 0.05 ** 2
        (0.35, 0.625),  # no dose gets so low: 0.38 is reached at 0.6, of which the next 32nd is 20 / 32
    ],
)
def test_interpolation_is_at_the_healed_models_task_loss_or_at_the_tuned_models(
    healed: float, dose: float
) -> None:
    assert same_dose(with_lowest_before_the_end, healed + 1e-12) == dose
