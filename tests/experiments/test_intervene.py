"""A sweep in memory against models written to disk and evaluated there, and its verdicts against made-up numbers.

Gains over interpolation at equal task loss are against arithmetic by hand.
"""

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from intruders.audits.audit_settings import AuditSettings, Compute
from intruders.data.load_task import load_task
from intruders.errors import PairingError, SettingError
from intruders.experiments.experiment_settings import AS_IN_THE_PAPER, SweepSettings
from intruders.experiments.intervene import intervene
from intruders.experiments.sweep import Intervention, InterventionSweep, intervention_rows
from intruders.measures.corpus_loss import CorpusLoss
from intruders.measures.evaluate import evaluate
from intruders.measures.intervals import Interval
from intruders.measures.losses import DocumentLosses
from intruders.measures.measure_settings import NO_LOSSES, LossSettings, ScoreSettings
from intruders.measures.output_energy import output_energy
from intruders.measures.task_score import TaskScore
from intruders.mitigation.mitigate import mitigate
from intruders.mitigation.remedies.shares import Interpolate
from intruders.reports.intervene import sweep_lines
from tests.json_lines import write_rows
from tests.made_up import made_up_audit
from tests.tiny import character_tokenizer

from .conftest import counted_measurements

NO_CACHE = Compute(cache=False)


def text_of(folder: Path) -> LossSettings:
    return LossSettings((str(folder / "text.jsonl"),))


def sums_of(folder: Path) -> ScoreSettings:
    task = f"{folder / 'task.jsonl'}?prompt=q&completion=a"
    return ScoreSettings(tasks=(task,), max_examples=3, max_new_tokens=4)


def swept(
    folder: Path, scales: tuple[float, ...] = (0.0,), controls: tuple[str, ...] = (), **changes: Any
) -> InterventionSweep:
    given = {"sweep": SweepSettings(scales, controls), "losses": text_of(folder), "compute": NO_CACHE}
    return intervene(str(folder / "base"), str(folder / "tuned"), **(given | changes))


def write(folder: Path, out: Path, **change: Any) -> Path:
    """Write the tuned model, or what a change makes of it."""
    given = {"form": "checkpoint", "check": False, "compute": NO_CACHE, **change}
    mitigate(folder / "base", folder / "tuned", out=out, **given)
    return out


@pytest.fixture(scope="module")
def sweep(hot: Path) -> InterventionSweep:
    controls = ("shrink", "random", "neighbours", "update", "resized", "complement", "interpolate")
    return swept(hot, (0, 0.5, 1), controls, scores=sums_of(hot))


def loss_of(point: Intervention, hot: Path) -> float:
    return point.losses[str(hot / "text.jsonl")].loss.estimate


def measured(model: Path, hot: Path) -> float:
    return evaluate(str(model), losses=text_of(hot)).losses[0].loss.estimate


def task_loss_of(model: Path, hot: Path) -> float:
    """Of the targets, by transformers' logits alone."""
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
    return total / tokens


def interpolated(sweep: InterventionSweep, task_loss: float) -> float:
    """The lowest loss on the text of the curve where its task loss is this one, or the lowest of all."""
    curve = [(point.task_loss.estimate, point.loss.estimate) for point in sweep.curve]
    reached = [at for task, at in curve if task <= task_loss]
    for (task, at), (next_task, next_at) in pairwise(curve):
        if (task <= task_loss) != (next_task <= task_loss):
            reached.append(at + (task_loss - task) / (next_task - task) * (next_at - at))
    return min(reached) if reached else min(curve)[1]


def test_points_are_what_written_models_measure(hot: Path, sweep: InterventionSweep, tmp_path: Path) -> None:
    """Its loss, the norm of its updates as a share of the tuned model's, and the gain over the curve."""
    before = load_model(hot / "base")
    changed = {matrix.name for matrix in sweep.audit.matrices if matrix.intruders}
    norms, gains = {}, {}
    assert len(sweep.points) == 2 * 7
    for point in [sweep.tuned_point, *sweep.points]:
        which = point.control, point.scale
        out = write(
            hot, tmp_path / f"{point.control}-{point.scale}", scale=point.scale, control=point.control
        )
        loss = measured(out, hot)
        assert loss_of(point, hot) == pytest.approx(loss, abs=1e-4)
        state = load_model(out)
        updates = [state[name].double() - before[name].double() for name in changed]
        norms[which] = math.hypot(*(float(update.norm()) for update in updates))
        assert point.update_norm == pytest.approx(norms[which] / norms["intruders", 1], rel=1e-4)
        if point is sweep.tuned_point:
            continue
        gains[which] = interpolated(sweep, task_loss_of(out, hot)) - loss
        assert point.gain.estimate == pytest.approx(gains[which], abs=2e-4)
        assert point.gain.low <= point.gain.estimate <= point.gain.high
        if point.control != "intruders":
            difference = gains[which] - gains["intruders", point.scale]
            assert point.gain_against_intruders.estimate == pytest.approx(difference, abs=4e-4)
    assert norms["shrink", 0] == pytest.approx(norms["intruders", 0], rel=1e-5)
    assert norms["resized", 0] == pytest.approx(norms["intruders", 1], rel=1e-5)
    (base,) = sweep.base_losses.values()
    assert base.loss.estimate == pytest.approx(measured(hot / "base", hot), abs=1e-6)
    assert len({round(loss_of(point, hot), 5) for point in sweep.points}) > 5


def test_the_curve_is_that_of_written_models(hot: Path, sweep: InterventionSweep, tmp_path: Path) -> None:
    assert [point.strength for point in sweep.curve] == [i / 10 for i in range(11)]
    for alpha in (0.0, 0.4, 1.0):
        out = hot / "base" if alpha == 0 else write(hot, tmp_path / f"{alpha}", remedy=Interpolate(alpha))
        (point,) = [one for one in sweep.curve if one.strength == alpha]
        assert point.loss.estimate == pytest.approx(measured(out, hot), abs=1e-4)
        assert point.task_loss.estimate == pytest.approx(task_loss_of(out, hot), abs=1e-4)


def test_the_top_intruder_alone_is_what_a_written_model_measures(hot: Path, tmp_path: Path) -> None:
    found = swept(hot, sweep=replace(AS_IN_THE_PAPER, scales=(0.3, 0.7)))
    assert [(point.control, point.scale) for point in found.points] == [
        (control, scale) for scale in (0.3, 0.7) for control in ("intruders", "neighbours")
    ]
    for point in found.points:
        out = tmp_path / f"{point.control}-{point.scale}"
        write(hot, out, scale=point.scale, control=point.control, which="top")
        assert loss_of(point, hot) == pytest.approx(measured(out, hot), abs=1e-4)
    assert found.to_document()["settings"]["which"] == "top"
    assert "the intruder with the largest singular value of each matrix" in "\n".join(sweep_lines(found))
    assert found.audit.intruders > sum(matrix.intruders > 0 for matrix in found.audit.matrices)


def test_shrink_output_equals_the_energy_of_the_outputs_on_text(
    hot: Path, sweep: InterventionSweep, tmp_path: Path
) -> None:
    """Against the energies of written models, on all tokens of short texts."""
    texts = ["one and one", "a cat sat", "12 + 30 = 42", "no more"]  # so short that every token is taken
    write_rows(tmp_path / "short.jsonl", [{"text": text * 2} for text in texts])
    corpus = str(tmp_path / "short.jsonl")
    found = swept(hot, (0.5,), ("shrink-output",), losses=LossSettings((corpus,)))
    [_, point] = found.points
    assert (point.control, point.scale, point.left_alone) == ("shrink-output", 0.5, 0)
    printed = sweep_lines(found)
    assert "the update scaled to the same output energy" in printed[-1]
    points = [line for line in printed if line.startswith(("  intruders", "  shrink-output"))]
    assert len({line.index("0.5") for line in points}) == 1  # one column
    written = [write(hot, tmp_path / name, scale=scale) for name, scale in (("half", 0.5), ("whole", 1))]
    half, whole = (
        output_energy(str(hot / "base"), model, [text * 2 for text in texts]).of_update for model in written
    )
    base, tuned = load_model(hot / "base"), load_model(written[1])
    names = [matrix.name for matrix in sweep.audit.matrices if matrix.intruders]
    shares = [math.sqrt(half[name] / whole[name]) for name in names]
    norms = [float((tuned[name] - base[name]).double().norm()) for name in names]
    assert max(shares) - min(shares) > 0.01  # so that each matrix has its own
    left = math.hypot(*(share * norm for share, norm in zip(shares, norms, strict=True)))
    assert point.update_norm == pytest.approx(left / math.hypot(*norms), rel=1e-4)


def without_seconds(sweep: InterventionSweep) -> dict[str, Any]:
    """The document of a sweep but for the time that its audit took."""
    return replace(sweep, audit=replace(sweep.audit, seconds=0.0)).to_document()


def test_a_stopped_call_goes_on(hot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted_measurements(monkeypatch)

    def found(keep: Path | None, seed: int = 0) -> dict[str, Any]:
        controls = ("shrink-output", "random", "interpolate")
        return without_seconds(swept(hot, (0.5,), controls, scores=sums_of(hot), seed=seed, keep=keep))

    whole = found(None)
    every = 11 + 1 + 3  # the curve, the tuned model, intruders and two controls
    assert calls.made == every
    calls.left = every - 2
    with pytest.raises(KeyboardInterrupt):
        found(tmp_path)
    for measured_again in (2, 0):
        calls.left, calls.made = -1, 0
        assert found(tmp_path) == whole
        assert calls.made == measured_again
    found(tmp_path, seed=1)
    assert calls.made == every


def load_model(hot: Path) -> dict[str, torch.Tensor]:
    return load_file(hot / "model.safetensors")


def point(control: str, scale: float, shift: float, right: int) -> Intervention:
    """Losses moved by ``shift`` on every one of 40 documents, and so many of 200 answers right."""
    sums = np.linspace(20, 40, 40) + 10 * (shift + 0.002 * np.cos(np.arange(40)))
    losses = DocumentLosses("cross-entropy", sums, np.full(40, 10))
    corpus = CorpusLoss("pydoc", Interval(losses.mean, losses.mean, losses.mean), [losses], [1.0])
    score = TaskScore("sums", "test", [index < right for index in range(200)])
    return Intervention(control, scale, {"pydoc": corpus}, {"sums": score})


def test_verdict_in_words() -> None:
    tuned = point("intruders", 1.0, 0.0, 150)
    points = [
        point("intruders", 0.5, -0.12, 120),
        point("shrink", 0.5, -0.12, 120),
        point("random", 0.5, 0.05, 120),
        point("neighbours", 0.5, -0.3, 150),
    ]
    sweep = InterventionSweep("base", "tuned", made_up_audit(), 0, tuned, dict(tuned.losses), points)
    (verdict,) = sweep.verdicts()
    first, shrink, random, neighbours = verdict.split("; ")
    assert first.startswith(
        "at scale 0.5 loss on pydoc falls 0.120 [0.120, 0.120] and accuracy on sums falls 15.0 points ["
    )
    assert shrink == "the norm-matched shrink does as well"
    assert random.startswith("the control random does worse in loss on pydoc +0.170")
    assert neighbours.startswith("the control neighbours does better in loss on pydoc -0.180")
    assert "accuracy on sums +15.0" in neighbours
    [same] = replace(sweep, points=[point("intruders", 0.5, 0.0, 150)]).verdicts()
    assert same.startswith("at scale 0.5 loss on pydoc does not clearly change (")


def test_a_control_that_no_matrix_has_is_not_compared(hot: Path) -> None:
    """Of two vectors, both intruders, none is left to be scaled in their place."""
    sweep = swept(hot, (0.0,), ("random", "neighbours"), audit=AuditSettings(k=2, epsilon=0.99))
    having = [matrix for matrix in sweep.audit.matrices if matrix.intruders]
    assert {matrix.intruders for matrix in having} == {2}
    assert {(p.control, p.left_alone) for p in sweep.points if p.control != "intruders"} == {
        ("random", len(having)),
        ("neighbours", len(having)),
    }
    (verdict,) = sweep.verdicts()
    assert verdict.split("; ")[1:] == [
        "no matrix has the control random",
        "no matrix has the control neighbours",
    ]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"losses": NO_LOSSES}, "nothing to measure"),
        ({"controls": ("none",)}, "control is 'none'"),
        ({"controls": ("interpolate",), "losses": NO_LOSSES, "scores": ScoreSettings(tasks=("sums",))},
         "pass --loss-on CORPUS and --task TASK"),
        ({"controls": ("shrink-output",), "losses": NO_LOSSES, "scores": ScoreSettings(tasks=("sums",))},
         "'shrink-output' equals outputs of the base on text, and there is none"),
        ({"audit": AuditSettings(split_fused=True)}, "split_fused"),
        ({"audit": AuditSettings(epsilon=1e-6)}, "has no intruders"),
        ({"audit": made_up_audit()}, "is of other weights"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused(changed: dict[str, Any], said: str, hot: Path) -> None:
    with pytest.raises(PairingError if "other weights" in said else SettingError, match=said):
        swept(hot, **changed)


def test_it_is_printed_and_written(sweep: InterventionSweep) -> None:
    text = "\n".join(sweep_lines(sweep))
    assert "gain over interpolation at equal task loss, nats per token" in text
    [alone] = [one.left_alone for one in sweep.points if (one.control, one.scale) == ("complement", 0)]
    assert alone > 0
    assert f"({alone} matrices have no such control and stay as tuned)" in text
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
