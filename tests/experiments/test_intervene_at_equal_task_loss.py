"""Interventions against interpolation at equal task loss: models on disk, and arithmetic by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from intruders.errors import SettingError
from intruders.experiments.sweep import InterventionSweep, intervention_rows
from intruders.measures.evaluate import evaluate
from intruders.measures.intervals import Interval
from intruders.measures.measure_settings import LossSettings, ScoreSettings
from intruders.mitigation.remedies.shares import Interpolate
from intruders.reports.intervene import sweep_lines
from tests.tiny import character_tokenizer

from .hot_models import sums_of, swept, text_of, write


@pytest.fixture(scope="module")
def sweep(hot: Path) -> InterventionSweep:
    return swept(hot, (0.0, 0.6), ("shrink", "interpolate"), scores=sums_of(hot))


def measured(hot: Path, model: Path) -> tuple[float, float]:
    """Loss on the text by the ordinary evaluation, and loss on the targets by transformers' logits alone."""
    from intruders.data.load_task import load_task

    text = evaluate(str(model), losses=text_of(hot)).losses[0].loss.estimate
    task = load_task(f"{hot / 'task.jsonl'}?prompt=q&completion=a", ScoreSettings(), 0)
    network, tokenizer = AutoModelForCausalLM.from_pretrained(model), character_tokenizer()
    total, tokens = 0.0, 0
    for example in (task.test or task.validation)[:3]:
        prompt, target = (
            tokenizer(part, add_special_tokens=False)["input_ids"] for part in (example.text, example.target)
        )
        target = [*target, tokenizer.eos_token_id]
        with torch.no_grad():
            logits = network(input_ids=torch.tensor([prompt + target])).logits[0].double()
        said = logits.log_softmax(-1)[len(prompt) - 1 : -1]
        total -= float(said[range(len(target)), target].sum())
        tokens += len(target)
    return text, total / tokens


def test_the_curve_is_that_of_written_models(hot: Path, sweep: InterventionSweep, tmp_path: Path) -> None:
    assert [point.strength for point in sweep.curve] == [i / 10 for i in range(11)]
    for alpha in (0.0, 0.4, 1.0):
        out = hot / "base" if alpha == 0 else tmp_path / f"{alpha}"
        if alpha:
            write(hot, out, remedy=Interpolate(alpha))
        (point,) = [one for one in sweep.curve if one.strength == alpha]
        loss, task_loss = measured(hot, out)
        assert point.loss.estimate == pytest.approx(loss, abs=1e-4)
        assert point.task_loss.estimate == pytest.approx(task_loss, abs=1e-4)


def test_gains_are_read_off_the_curve(hot: Path, sweep: InterventionSweep, tmp_path: Path) -> None:
    assert [(point.control, point.scale) for point in sweep.points] == [
        ("intruders", 0.0), ("shrink", 0.0), ("intruders", 0.6), ("shrink", 0.6),
    ]  # fmt: skip
    curve = [(point.task_loss.estimate, point.loss.estimate) for point in sweep.curve]
    by_hand = {}
    for point in sweep.points:
        out = tmp_path / f"{point.control}{point.scale}"
        write(hot, out, scale=point.scale, control=point.control)
        loss, task_loss = measured(hot, out)
        reached = [at for task, at in curve if task <= task_loss]
        for (task, at), (next_task, next_at) in pairwise(curve):
            if (task <= task_loss) != (next_task <= task_loss):
                reached.append(at + (task_loss - task) / (next_task - task) * (next_at - at))
        wanted = min(reached) if reached else min(curve)[1]
        assert point.gain.estimate == pytest.approx(wanted - loss, abs=2e-4)
        assert point.gain.low <= point.gain.estimate <= point.gain.high
        by_hand[point.control, point.scale] = wanted - loss
    for point in sweep.points:
        if point.control == "shrink":
            difference = by_hand["shrink", point.scale] - by_hand["intruders", point.scale]
            assert point.gain_against_intruders.estimate == pytest.approx(difference, abs=4e-4)


def test_it_is_printed_and_written(sweep: InterventionSweep) -> None:
    text = "\n".join(sweep_lines(sweep))
    assert "gain over interpolation at equal task loss, nats per token" in text
    assert all("at equal task loss" in sentence for sentence in sweep.verdicts())
    record = json.loads(json.dumps(sweep.to_document(), allow_nan=False))
    assert [point["alpha"] for point in record["interpolation"]] == [i / 10 for i in range(11)]
    assert record["points"][0]["gain_at_equal_task_loss"]["estimate"] == sweep.points[0].gain.estimate  # type: ignore[union-attr]
    rows = [row for row in intervention_rows(sweep) if row["measure"] == "gain"]
    assert [(row["control"], row["scale"]) for row in rows][:2] == [("intruders", 1.0), ("intruders", 0.0)]
    assert rows[0]["value"] == 0.0
    assert rows[2]["against_intruders"] == sweep.points[1].gain_against_intruders.estimate  # type: ignore[union-attr]


def test_the_sentence_says_which_is_lower(sweep: InterventionSweep) -> None:
    for gain, said in (
        (Interval(0.2, 0.1, 0.3), "this is 0.200 [0.100, 0.300] below interpolation"),
        (Interval(-0.2, -0.3, -0.1), "this is 0.200 [0.100, 0.300] above interpolation"),
        (Interval(0.0, -0.1, 0.1), "interpolation does as well (+0.000 [-0.100, +0.100])"),
    ):
        [verdict] = replace(sweep, points=[replace(sweep.points[0], gain=gain)]).verdicts()
        assert verdict.partition("; ")[2] == f"at equal task loss {said}"


def test_without_a_curve_nothing_is_added_and_a_task_is_needed_for_one(hot: Path) -> None:
    alone = swept(hot, scores=sums_of(hot))
    assert alone.curve == []
    assert {row["measure"] for row in intervention_rows(alone)} == {"loss", "accuracy"}
    assert "equal task loss" not in "\n".join(sweep_lines(alone))
    for missing in ({}, {"losses": LossSettings(), "scores": sums_of(hot)}):
        with pytest.raises(SettingError, match="pass --loss-on CORPUS and --task TASK"):
            swept(hot, (0.0,), ("interpolate",), **missing)
