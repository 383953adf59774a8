"""Which strengths are tried, chosen and dropped early, and their controls, on planted losses.

And the remedy ``surgery``: measured once, held against drawn weights, or a row with its reason.
"""

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

from intruders.errors import NonFiniteError
from intruders.experiments import bench
from intruders.experiments.compared_rows import Comparing, at_strengths, controls_of
from intruders.experiments.experiment_settings import ComparisonSettings
from intruders.experiments.remedy_comparison import RemedyComparison
from intruders.experiments.yardstick import Yardstick
from intruders.measures.losses import Outcome
from intruders.mitigation.remedies.remedy import ScaledIntruders
from intruders.mitigation.remedies.shares import Interpolate, Lines
from tests.checkpoints.models import saved
from tests.commands import printed
from tests.experiments.healed_models import save_hot
from tests.experiments.test_compare_remedies import Found, compared, measured, row
from tests.experiments.test_yardstick import made, yardstick
from tests.mitigation.hot import hot_llama

REMEDIES = [Lines(0.75), Lines(0.5), Lines(0.25), Lines(0.0)]


def comparing(
    stick: Yardstick,
    first: Yardstick | None = None,
    *,
    allow: float = 0.02,
    outcomes: Mapping[Any, Outcome] | None = None,
) -> Comparing:
    def outcome(remedy: Any, share: Any) -> Outcome:
        measured = (outcomes or {})[remedy]
        if not np.isfinite(measured.corpora["text"][0].sums).all():
            raise NonFiniteError("the loss is NaN")
        return measured

    bench: Any = SimpleNamespace(outcome=outcome)
    data: Any = SimpleNamespace(choice=["first", "rest"])
    sizes: Any = SimpleNamespace(norm_and_output=lambda remedy, cases: (remedy.alpha, None))
    settings = ComparisonSettings(allow=allow)
    return Comparing(bench, data, settings, "none", first, stick, stick, sizes, [])


@pytest.mark.parametrize(
    ("allow", "chosen", "is_over"),
    [
        # The tuned model has the task loss 1. Losses on text fall and task losses rise with the strength.
        (0.02, 0.75, False),
        (0.25, 0.5, False),
        (5.0, 0.0, False),
        (0.0, 0.75, True),  # none is within: the one with the lowest task loss
    ],
)
def test_the_lowest_loss_within_the_allowance_is_chosen(allow: float, chosen: float, is_over: bool) -> None:
    outcomes = [made(4.5, 1.01), made(4.0, 1.2), made(3.0, 2.0), made(2.5, 3.0)]
    remedy, choice = comparing(yardstick(share="choice"), allow=allow).choose(REMEDIES, outcomes, [])
    assert remedy == Lines(chosen)
    assert choice.over_allowance is is_over
    assert [point.strength for point in choice.tried] == [0.75, 0.5, 0.25, 0.0]
    assert [point.norm for point in choice.tried] == [0.75, 0.5, 0.25, 0.0]
    assert {point.share for point in choice.tried} == {"choice"}
    assert [point.loss.estimate for point in choice.tried] == pytest.approx(
        [float(outcome.corpora["text"][0].mean) for outcome in outcomes]
    )


def test_points_of_interpolation_gain_nothing_over_themselves() -> None:
    stick = yardstick()
    _, choice = comparing(stick, allow=1.6).choose([Interpolate(0.5)], [stick.curve[5]], [])
    [point] = choice.tried
    assert (point.remedy, point.gain, point.gain_at_norm) == ("interpolate", None, None)


def test_a_first_pass_drops_what_is_clearly_under_the_curve_or_not_finite() -> None:
    # At the task loss 2.5 interpolation is half way, with the loss 3.5.
    losses = {0.75: 3.4, 0.5: 3.9, 0.25: float("nan"), 0.0: 3.5}
    outcomes = {Lines(alpha): made(loss, 2.5) for alpha, loss in losses.items()}
    stick = yardstick()
    with_first_pass = comparing(stick, stick, outcomes=outcomes)
    left = [remedy for remedy in REMEDIES if with_first_pass.first_pass(remedy) is not None]
    assert left == [Lines(0.75), Lines(0.0)]
    # With too few data for a first pass only a loss that is no number is left out.
    without = comparing(stick, outcomes=outcomes)
    left = [remedy for remedy in REMEDIES if without.first_pass(remedy) is not None]
    assert left == [Lines(0.75), Lines(0.5), Lines(0.0)]


def test_every_strength_and_control_is_of_the_strongest() -> None:
    strengths = at_strengths("intruders", 3, 0, "top")
    assert [remedy.recorded()["which"] for remedy in strengths] == ["top"] * 3
    controls, _ = controls_of(strengths[0], [], {}, 0)
    assert controls["neighbours"].recorded()["which"] == "top"
    assert controls["random 1"].recorded()["which"] == "top"
    of_all, _ = controls_of(ScaledIntruders(0.5), [], {}, 0)
    assert "neighbours" not in of_all


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and adapters of it of the ranks 3 and 1."""
    path = save_hot(tmp_path_factory.mktemp("models"))
    for rank in (3, 1):
        base = AutoModelForCausalLM.from_pretrained(path / "base")
        saved(hot_llama(model=base, gain=0.6, r=rank), path / f"rank{rank}")
    return path


@pytest.fixture(scope="module")
def found(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Found:
    out = tmp_path_factory.mktemp("out")
    return weighed(folder, "rank3", out), out


def weighed(folder: Path, tuned: str, out: Path | None = None, **scored: str) -> RemedyComparison:
    return compared(folder, out, folder / tuned, scored=scored, only=("surgery",))


def test_it_runs_at_its_strengths_with_its_controls(found: Found) -> None:
    one = row(found[0], "surgery")
    assert one.reason is None
    assert [point.strength for point in one.tried] == [0.1, 0.4]
    controls = {point.control: point for point in one.controls}
    assert set(controls) == {"shrink", "shrink-output", "resized", "random 1", "random 2", "random 3"}
    assert one.chosen.settings["mode"] == "abs_select"
    assert {controls[f"random {number}"].settings["mode"] for number in (1, 2, 3)} == {"random_index"}
    assert {controls[f"random {number}"].settings["seed"] for number in (1, 2, 3)} == {0, 1, 2}


@pytest.mark.parametrize("scored", [{}, {"prompt": "q", "completion": "a"}])
def test_the_command_for_it_writes_the_model_that_was_measured(
    scored: dict[str, str], folder: Path, found: Found, tmp_path: Path
) -> None:
    comparison = weighed(folder, "rank3", **scored) if scored else found[0]
    one = row(comparison, "surgery")
    # As if it had won clearly, over a tuning that forgot.
    clear = replace(one.chosen, gain=replace(one.chosen.gain, low=1e-9))
    won = replace(one, chosen=clear, over_allowance=False)
    forgot = replace(comparison.forgotten, low=1e-9)
    shell = replace(comparison, remedies=[won], forgotten=forgot).command(str(tmp_path / "out"))
    printed(*shlex.split(str(shell))[1:], "--no-check", "--no-cache")
    loss = measured(folder, tmp_path / "out").loss.estimate
    assert loss == pytest.approx(one.chosen.loss.estimate, abs=1e-5)
    assert abs(loss - comparison.tuned_point.loss.estimate) > 1e-4, "or the remedy shows nothing"
    for model, point in (("base", comparison.base_point), ("rank3", comparison.tuned_point)):
        assert measured(folder, folder / model).loss.estimate == pytest.approx(point.loss.estimate, abs=1e-5)


def test_a_resumed_comparison_measures_no_sensitivity_again(
    folder: Path, found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    def again(*given: object) -> None:
        raise AssertionError("measured again")

    comparison, out = found
    with monkeypatch.context() as patched:
        patched.setattr(bench, "sensitivities", again)
        assert weighed(folder, "rank3", out).to_document() == comparison.to_document()
    # Other training examples are measured: the first rows in the order that is drawn have changed.
    rows = (folder / "task.jsonl").read_text()
    (folder / "task.jsonl").write_text(rows.replace("plus", "less"))
    monkeypatch.setattr(bench, "sensitivities", again)
    with pytest.raises(AssertionError, match="measured again"):
        weighed(folder, "rank3", out)
    (folder / "task.jsonl").write_text(rows)


def test_where_there_is_nothing_to_weigh_it_is_a_row_with_its_reason(folder: Path) -> None:
    alone = row(weighed(folder, "rank1"), "surgery")
    assert alone.chosen is None
    assert alone.reason == (
        "changes nothing in this model: every update that it reaches has rank 1, and a single singular value keeps "
        "its size"
    )
