"""The remedy `surgery` in a comparison: measured once, held against drawn weights, or a row with its reason."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from intruders.audits.audit_settings import Compute
from intruders.experiments import bench
from intruders.experiments.compare_remedies import compare_remedies
from intruders.experiments.experiment_settings import ComparisonSettings
from intruders.experiments.point import Point
from intruders.experiments.remedy_comparison import ComparedRemedy, RemedyComparison
from intruders.measures.evaluate import evaluate
from intruders.measures.measure_settings import LossSettings, ScoreSettings
from tests.checkpoints.models import saved
from tests.commands import in_this_process
from tests.json_lines import write_rows
from tests.mitigation.hot import hot_llama
from tests.tiny import save_llama

Found = tuple[RemedyComparison, Path]

ROWS = [{"q": f"{number} + 1 =", "a": "57"} for number in range(100, 124)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and adapters of it of the ranks 3 and 1."""
    path = tmp_path_factory.mktemp("models")
    save_llama(path / "base", positions=64)
    write_rows(path / "task.jsonl", ROWS)
    texts = [f"the cat sat on mat {number} and then it ran" for number in range(8)]
    write_rows(path / "text.jsonl", [{"text": text} for text in texts])
    for rank in (3, 1):
        base = AutoModelForCausalLM.from_pretrained(path / "base")
        saved(hot_llama(model=base, gain=0.6, r=rank), path / f"rank{rank}")
    return path


def compared(folder: Path, tuned: str, out: Path | None = None, **scored: str) -> RemedyComparison:
    task = str(folder / "task.jsonl") if scored else f"{folder / 'task.jsonl'}?prompt=q&completion=a"
    return compare_remedies(
        str(folder / "base"),
        str(folder / tuned),
        comparison=ComparisonSettings(only=("surgery",), strengths=2),
        losses=LossSettings((str(folder / "text.jsonl"),)),
        scores=ScoreSettings(tasks=(task,), max_new_tokens=4, **scored),
        out=out,
        compute=Compute(cache=False),
    )


@pytest.fixture(scope="module")
def found(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RemedyComparison, Path]:
    out = tmp_path_factory.mktemp("out")
    return compared(folder, "rank3", out), out


def surgery(comparison: RemedyComparison) -> ComparedRemedy:
    return next(one for one in comparison.remedies if one.name == "surgery")


def test_it_runs_at_its_strengths_with_its_controls(found: Found) -> None:
    row = surgery(found[0])
    assert row.reason is None
    assert [point.strength for point in row.tried] == [0.1, 0.4]
    controls = {point.control: point for point in row.controls}
    assert set(controls) == {"shrink", "shrink-output", "resized", "random 1", "random 2", "random 3"}
    assert controls["shrink"].norm == pytest.approx(row.chosen.norm, rel=1e-6)
    assert controls["resized"].norm == pytest.approx(1)
    assert row.chosen.settings["mode"] == "abs_select"
    assert {controls[f"random {number}"].settings["mode"] for number in (1, 2, 3)} == {"random_index"}
    assert {controls[f"random {number}"].settings["seed"] for number in (1, 2, 3)} == {0, 1, 2}


def _written(point: Point, shell: str | None, folder: Path, out: Path) -> float:
    """The loss on the reported half of the model on disk that a command makes."""
    assert shell is not None
    done = in_this_process(*shlex.split(shell)[1:], "--no-check", "--no-cache")
    assert done.returncode == 0, done.stderr
    measured = evaluate(str(out), base=str(folder / "base"), losses=LossSettings((str(out) + ".jsonl",)))
    return measured.losses[0].loss.estimate


@pytest.mark.parametrize("scored", [{}, {"prompt": "q", "completion": "a"}])
def test_the_command_for_it_writes_the_model_that_was_measured(
    scored: dict[str, str], folder: Path, found: Found, tmp_path: Path
) -> None:
    from intruders.data.corpora import load_corpora
    from intruders.data.load_task import load_task
    from intruders.experiments.data_shares import split_data

    comparison = compared(folder, "rank3", **scored) if scored else found[0]
    row = surgery(comparison)
    assert row.chosen.gain is not None
    # As if it had won clearly, over a tuning that forgot.
    won = replace(row, chosen=replace(row.chosen, gain=replace(row.chosen.gain, low=1e-9)))
    won = replace(won, over_allowance=False)
    forgot = replace(comparison.forgotten, low=1e-9)
    shell = replace(comparison, remedies=[won], forgotten=forgot).command(str(tmp_path / "out"))
    task = load_task(f"{folder / 'task.jsonl'}?prompt=q&completion=a", ScoreSettings(), 0)
    corpora = {"text": load_corpora(str(folder / "text.jsonl"))}
    texts = split_data(corpora, {"t": task}, None, 0).report.corpora["text"][0].documents
    write_rows(tmp_path / "out.jsonl", [{"text": text} for text in texts])
    loss = _written(row.chosen, shell, folder, tmp_path / "out")
    assert loss == pytest.approx(row.chosen.loss.estimate, abs=1e-5)
    assert abs(loss - comparison.tuned_point.loss.estimate) > 1e-4, "or the remedy shows nothing"


def test_a_resumed_comparison_measures_no_sensitivity_again(
    folder: Path, found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    def again(*given: object) -> None:
        raise AssertionError("measured again")

    comparison, out = found
    with monkeypatch.context() as patched:
        patched.setattr(bench, "sensitivities", again)
        assert compared(folder, "rank3", out).to_document() == comparison.to_document()
    # Other training examples are measured: the first rows in the order that is drawn have changed.
    rows = (folder / "task.jsonl").read_text()
    (folder / "task.jsonl").write_text(rows.replace('"57"', '"75"'))
    monkeypatch.setattr(bench, "sensitivities", again)
    with pytest.raises(AssertionError, match="measured again"):
        compared(folder, "rank3", out)
    (folder / "task.jsonl").write_text(rows)


def test_where_there_is_nothing_to_weigh_it_is_a_row_with_its_reason(folder: Path) -> None:
    alone = surgery(compared(folder, "rank1"))
    assert alone.chosen is None
    assert alone.reason == (
        "changes nothing in this model: every update that it reaches has rank 1, and a single singular value keeps "
        "its size"
    )
    save_llama(folder / "dense", positions=64)
    model = AutoModelForCausalLM.from_pretrained(folder / "dense")
    for parameter in model.parameters():
        parameter.data *= 1.1
    model.save_pretrained(folder / "dense")
    dense = surgery(compared(folder, "dense"))
    assert dense.reason is not None
    assert "whose update has no low rank" in dense.reason
