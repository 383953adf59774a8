"""One scale for the whole update: measured beside the weights, against weights that are scaled."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from intruders.checkpoints.pairing.open_sides import open_sides
from intruders.checkpoints.pairing.pair_sides import pair_sides
from intruders.experiments.heal.scale_choice import choose_scale, write_at_scale
from tests.commands import in_this_process

from .healed_models import QUICK, llama_and_adapter


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return llama_and_adapter(tmp_path_factory.mktemp("scale"))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("text") / "text.jsonl"
    file.write_text("\n".join(json.dumps({"text": f"{number} what the base knows"}) for number in range(8)))
    return str(file)


def test_the_scale_forgets_least_of_those_that_keep_the_task(models: tuple[str, str], text: str) -> None:
    found = choose_scale(*models, task="word-problems", loss_on=text, settings=QUICK)
    scales = [point.scale for point in found.curve]
    assert {round(0.1 * step, 1) for step in range(11)} <= set(scales)
    assert len(scales) > 11
    most = found.curve[-1].task_loss + QUICK.allow
    allowed = [point for point in found.curve if point.task_loss <= most]
    assert found.scale == min(allowed, key=lambda point: point.text_loss).scale
    assert [point.name for point in found.points] == ["base", "tuned", "chosen"]


@pytest.mark.parametrize("scale", [0.4, 1.3, -0.2])
def test_a_scale_of_the_users_is_written(models: tuple[str, str], tmp_path: Path, scale: float) -> None:
    write_at_scale(*models, scale, tmp_path / "scaled")
    before, after = (
        pair_sides(*open_sides(models[0], tuned)).pairs for tuned in (models[1], str(tmp_path / "scaled"))
    )
    for old, new in zip(before, after, strict=True):
        one, other = old.load(), new.load()
        assert one is not None
        assert other is not None
        assert torch.allclose(other.update.dense(), scale * one.update.dense(), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--at", "0.5"], "pass --out FOLDER"),
        (["--out", "OUT"], "no scale was given"),
        (["--task", "word-problems", "--out", "OUT"], "no text to measure forgetting on"),
    ],
)
def test_what_is_missing_is_said(
    models: tuple[str, str], tmp_path: Path, options: list[str], said: str
) -> None:
    given = [str(tmp_path / "out") if one == "OUT" else one for one in options]
    done = in_this_process("scale", *models, *given)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
