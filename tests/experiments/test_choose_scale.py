"""One scale for the whole update: measured beside the weights, against weights that are scaled."""

from pathlib import Path

from intruders.experiments.choose_scale import choose_scale
from tests.tiny import short_task

from .healed_models import QUICK, Models


def test_the_scale_forgets_least_of_those_that_keep_the_task(models: Models, text: str) -> None:
    found = choose_scale(*models, task=short_task(Path(models[0]).parent), loss_on=text, settings=QUICK)
    scales = [point.scale for point in found.curve]
    assert {round(0.1 * step, 1) for step in range(11)} <= set(scales)
    assert len(scales) > 11
    most = found.curve[-1].task_loss + QUICK.allow
    allowed = [point for point in found.curve if point.task_loss <= most]
    assert found.scale == min(allowed, key=lambda point: point.text_loss).scale
    assert [point.name for point in found.points] == ["base", "tuned", "chosen"]
