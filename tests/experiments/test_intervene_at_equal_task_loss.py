"""Interventions against interpolation at equal task loss: models on disk, and arithmetic by hand."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from intruders.audits.audit_settings import Compute
from intruders.errors import SettingError
from intruders.experiments.experiment_settings import SweepSettings
from intruders.experiments.intervene import intervene
from intruders.experiments.sweep import InterventionSweep, intervention_rows
from intruders.measures.evaluate import evaluate
from intruders.measures.intervals import Interval
from intruders.measures.measure_settings import LossSettings, ScoreSettings
from intruders.mitigation.mitigate import mitigate
from intruders.mitigation.remedies.shares import Interpolate
from intruders.reports.intervene import sweep_lines
from tests.checkpoints.models import saved
from tests.json_lines import write_rows
from tests.mitigation.hot import hot_llama
from tests.tiny import character_tokenizer, save_llama

EXAMPLES = 3
NO_CACHE = Compute(cache=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models")
    save_llama(path / "base")
    base = AutoModelForCausalLM.from_pretrained(path / "base")
    saved(hot_llama(model=base, gain=1.2), path / "tuned")
    texts = ["one and one", "a cat sat", "12 + 30 = 42", "words, words", "the end of it", "no more"]
    write_rows(path / "texts.jsonl", [{"text": text * 3} for text in texts])
    rows = [{"q": f"{i} plus 1", "a": str(i + 1)} for i in range(30)]
    write_rows(path / "task.jsonl", rows)
    return path


def swept(folder: Path, controls: tuple[str, ...], **changes: Any) -> InterventionSweep:
    given: dict[str, Any] = {
        "losses": LossSettings((str(folder / "texts.jsonl"),)),
        "scores": ScoreSettings(
            tasks=(f"{folder / 'task.jsonl'}?prompt=q&completion=a",), max_examples=EXAMPLES, max_new_tokens=4
        ),
    }
    return intervene(
        str(folder / "base"),
        str(folder / "tuned"),
        sweep=SweepSettings((0.0, 0.6), controls),
        compute=NO_CACHE,
        **(given | changes),
    )


@pytest.fixture(scope="module")
def sweep(folder: Path) -> InterventionSweep:
    return swept(folder, ("shrink", "interpolate"))


def measured(folder: Path, model: Path) -> tuple[float, float]:
    """Loss on the text by the ordinary evaluation, and loss on the targets by transformers' logits alone."""
    from intruders.data.load_task import load_task

    text = evaluate(str(model), losses=LossSettings((str(folder / "texts.jsonl"),))).losses[0].loss.estimate
    task = load_task(f"{folder / 'task.jsonl'}?prompt=q&completion=a", ScoreSettings(), 0)
    network, tokenizer = AutoModelForCausalLM.from_pretrained(model), character_tokenizer()
    total, tokens = 0.0, 0
    for example in (task.test or task.validation)[:EXAMPLES]:
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


def test_the_curve_is_that_of_written_models(folder: Path, sweep: InterventionSweep, tmp_path: Path) -> None:
    assert [point.strength for point in sweep.curve] == [i / 10 for i in range(11)]
    for alpha in (0.0, 0.4, 1.0):
        out = folder / "base" if alpha == 0 else tmp_path / f"{alpha}"
        if alpha:
            remedy = Interpolate(alpha)
            mitigate(
                folder / "base", folder / "tuned", remedy=remedy, form="checkpoint", out=out, check=False,
                compute=NO_CACHE,
            )  # fmt: skip
        (point,) = [one for one in sweep.curve if one.strength == alpha]
        loss, task_loss = measured(folder, out)
        assert point.loss.estimate == pytest.approx(loss, abs=1e-4)
        assert point.task_loss.estimate == pytest.approx(task_loss, abs=1e-4)


def test_gains_are_read_off_the_curve(folder: Path, sweep: InterventionSweep, tmp_path: Path) -> None:
    assert [(point.control, point.scale) for point in sweep.points] == [
        ("intruders", 0.0), ("shrink", 0.0), ("intruders", 0.6), ("shrink", 0.6),
    ]  # fmt: skip
    curve = [(point.task_loss.estimate, point.loss.estimate) for point in sweep.curve]
    by_hand = {}
    for point in sweep.points:
        out = tmp_path / f"{point.control}{point.scale}"
        mitigate(
            folder / "base", folder / "tuned", scale=point.scale, control=point.control, form="checkpoint",
            out=out, check=False, compute=NO_CACHE,
        )  # fmt: skip
        loss, task_loss = measured(folder, out)
        reached = [at for task, at in curve if task <= task_loss]
        for (task, at), (next_task, next_at) in pairwise(curve):
            if (task <= task_loss) != (next_task <= task_loss):
                reached.append(at + (task_loss - task) / (next_task - task) * (next_at - at))
        wanted = min(reached) if reached else min(curve)[1]
        assert point.gain is not None
        assert point.gain.estimate == pytest.approx(wanted - loss, abs=2e-4)
        assert point.gain.low <= point.gain.estimate <= point.gain.high
        by_hand[point.control, point.scale] = wanted - loss
    for point in sweep.points:
        if point.control == "shrink":
            assert point.gain_against_intruders is not None
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
    from dataclasses import replace

    def said(gain: Interval) -> str:
        point = replace(sweep.points[0], gain=gain)
        return replace(sweep, points=[point]).verdicts()[0].partition("; ")[2]

    assert (
        said(Interval(0.2, 0.1, 0.3)) == "at equal task loss this is 0.200 [0.100, 0.300] below interpolation"
    )
    assert (
        said(Interval(-0.2, -0.3, -0.1))
        == "at equal task loss this is 0.200 [0.100, 0.300] above interpolation"
    )
    assert (
        said(Interval(0.0, -0.1, 0.1))
        == "at equal task loss interpolation does as well (+0.000 [-0.100, +0.100])"
    )


def test_without_a_curve_nothing_is_added_and_a_task_is_needed_for_one(folder: Path) -> None:
    alone = swept(folder, ())
    assert alone.curve == []
    assert {row["measure"] for row in intervention_rows(alone)} == {"loss", "accuracy"}
    assert "equal task loss" not in "\n".join(sweep_lines(alone))
    for missing in ({"scores": ScoreSettings()}, {"losses": LossSettings()}):
        with pytest.raises(SettingError, match="pass --loss-on CORPUS and --task TASK"):
            swept(folder, ("interpolate",), **missing)
