"""Advice on a model: given where numbers speak for it, and never without."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import intruders
from intruders.audits.result.audit_result import Audit
from intruders.errors import IntrudersError
from intruders.reports.advice import advice_lines
from intruders.reports.advise import advise
from tests.checkpoints.models import saved
from tests.made_up import made_up_audit
from tests.mitigation.hot import hot_llama
from tests.reports.advised import as_a_studys_run, scale_document, topics, write


def audit_with_sizes(apart: bool) -> Audit:
    """A made-up audit whose matrices with intruders have much larger updates, or not."""
    audit = made_up_audit(layers=4, intruder_rate=0.08, seed=2)
    matrices = []
    for i, matrix in enumerate(audit.matrices):
        spectral = 8.0 if apart and matrix.intruders else 1.0 + (i % 3)
        matrices.append(
            dataclasses.replace(matrix, update=dataclasses.replace(matrix.update, spectral=spectral))
        )
    return dataclasses.replace(audit, matrices=matrices)


def test_an_audit_without_intruders_gives_no_advice(tmp_path: Path) -> None:
    made_up_audit(layers=2, intruder_rate=0).save(tmp_path / "audit.json")
    found = advise(tmp_path / "audit.json")
    assert found.advice == []
    assert "no intruders among the 140 leading vectors of 14 matrices" in found.notes[0]
    assert "No advice: no number here speaks for a change." in advice_lines(found)


def test_size_of_the_update_where_it_tells_the_matrices_apart(tmp_path: Path) -> None:
    for apart in (True, False):
        audit_with_sizes(apart).save(tmp_path / "audit.parquet")
        assert ("size of the update" in topics(tmp_path)) is apart


def test_a_kind_of_module_with_most_of_the_intruders(tmp_path: Path) -> None:
    audit = made_up_audit(layers=6, intruder_rate=0)
    down = made_up_audit(layers=6, intruder_rate=0.4)
    matrices = [
        hot if "down_proj" in hot.name else cold
        for hot, cold in zip(down.matrices, audit.matrices, strict=True)
    ]
    dataclasses.replace(audit, matrices=matrices).save(tmp_path / "audit.json")
    (one,) = (one for one in advise(tmp_path).advice if one.topic == "modules")
    assert "down_proj" in one.change
    count = sum(matrix.intruders for matrix in matrices)
    assert f"{count} of {count} intruders (100 %)" in one.evidence[0]


def test_a_measured_scale_below_one_is_advice(tmp_path: Path) -> None:
    audit = made_up_audit(layers=2, intruder_rate=0.3)
    audit.save(tmp_path / "audit.json")
    write(tmp_path / "scale.json", scale_document(audit, 0.36))
    (one,) = (one for one in advise(tmp_path).advice if one.topic == "scale")
    assert "at most 0.36 times this one has no intruders" in one.change
    assert "0 at 0.36 times it" in one.evidence[0]
    assert "0.5 times it" in one.evidence[1]
    write(tmp_path / "scale.json", scale_document(audit, None))
    assert "scale" not in topics(tmp_path)
    write(tmp_path / "scale.json", scale_document(audit, 0.36, target=5))
    (one,) = (one for one in advise(tmp_path).advice if one.topic == "scale")
    assert "at most 0.36 times this one has at most 5 intruders" in one.change
    write(tmp_path / "scale.json", scale_document(audit, 0.36, k=20))  # of other vectors than the audit
    assert "scale" not in topics(tmp_path)


def test_a_search_that_met_no_intruder_tells_where_it_ended_and_not_where_they_begin(tmp_path: Path) -> None:
    audit = made_up_audit(layers=2, intruder_rate=0)
    audit.save(tmp_path / "audit.json")
    write(tmp_path / "scale.json", scale_document(audit, 3.0))
    assert advise(tmp_path).notes[1] == "the first would appear above 3 times this update"
    document = scale_document(audit, 64.0)
    for matrix in document["matrices"]:
        matrix["measured"] = None
    write(tmp_path / "scale.json", document)
    assert advise(tmp_path).notes[1] == "no intruder up to 64 times this update, where the search ended"


def sweep(**changes: float | None) -> dict[str, Any]:
    """A sweep at scale 0.5: the loss falls by 0.3, the accuracy stays, the shrink does 0.2 worse.

    The gain over interpolation is there where it is given.
    """
    values: dict[str, float | None] = {"loss": -0.3, "accuracy": 0.0, "shrink": 0.2, **changes}

    def row(control: str, measure: str, value: float | None, against: float | None) -> dict[str, Any]:
        ends = {"low": -0.05, "high": 0.05}
        found: dict[str, Any] = {"control": control, "scale": 0.5, "measure": measure, "on": "pydoc"}
        for name, number in (("change", value), ("against_intruders", against)):
            found[name] = number
            for end, width in ends.items():
                found[f"{name}_{end}"] = None if number is None else number + width
        return found

    rows = [
        row("intruders", "loss", values["loss"], None),
        row("intruders", "accuracy", values["accuracy"], None),
        row("shrink", "loss", -0.1, values["shrink"]),
        *([row("intruders", "gain", values["gain"], None)] if "gain" in values else []),
    ]
    return {"schema": 1, "skipped": None, "rows": rows}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"gain": 0.2},
            "scale the intruders to 0.5: intruders mitigate base tuned --scale 0.5 --out mitigated",
        ),
        ({"gain": 0.0}, "compare before you scale intruders"),
        ({"gain": None}, "compare before you scale intruders"),
        ({"gain": -0.2}, "turn the complete update down instead of its intruders"),
        ({}, "compare before you scale intruders"),
        ({"loss": -0.02}, None),  # the interval holds zero
        ({"accuracy": -0.2}, None),  # it clearly costs accuracy
    ],
)
def test_mitigation_by_what_was_measured(
    tmp_path: Path, changes: dict[str, float], expected: str | None
) -> None:
    audit = made_up_audit(layers=2, intruder_rate=0.3)
    dataclasses.replace(audit, base_source="base", tuned_source="tuned").save(tmp_path / "audit.json")
    write(tmp_path / "intervention.json", sweep(**changes))
    as_a_studys_run(tmp_path)
    found = [one for one in advise(tmp_path).advice if one.topic == "mitigation"]
    if expected is None:
        assert found == []
        assert any(
            "no scale of the intruders that was tried (0.5)" in note for note in advise(tmp_path).notes
        )
    else:
        assert expected in found[0].change
        assert "-0.300 [-0.350, -0.250]" in found[0].evidence[0]
        last = advise(tmp_path).steps[-1]
        is_favored = changes.get("gain") == 0.2
        assert last.sentence.startswith(
            "On this model, scaling" if is_favored else "Scale the intruders only"
        )
        assert ("--scale" in (last.command or ())) is is_favored


def test_where_only_the_top_intruders_were_scaled_the_command_scales_those(tmp_path: Path) -> None:
    audit = made_up_audit(layers=2, intruder_rate=0.3)
    dataclasses.replace(audit, base_source="base", tuned_source="tuned").save(tmp_path / "audit.json")
    measured = sweep(gain=0.2)
    measured["rows"] = [row | {"which": "top"} for row in measured["rows"]]
    write(tmp_path / "intervention.json", measured)
    as_a_studys_run(tmp_path)
    (mitigation,) = (one for one in advise(tmp_path).advice if one.topic == "mitigation")
    assert "intruders mitigate base tuned --scale 0.5 --which top --out mitigated" in mitigation.change
    command = advise(tmp_path).steps[-1].command
    assert command is not None
    assert " ".join(command).startswith("intruders mitigate base tuned --scale 0.5 --which top")


def test_a_control_that_does_as_well_is_named(tmp_path: Path) -> None:
    made_up_audit(layers=2, intruder_rate=0.3).save(tmp_path / "audit.json")
    write(tmp_path / "intervention.json", sweep(shrink=0.0))
    as_a_studys_run(tmp_path)
    (mitigation,) = (piece for piece in advise(tmp_path).advice if piece.topic == "mitigation")
    assert any("the control shrink does as well or better" in line for line in mitigation.evidence)


def evaluation(low: float, high: float) -> dict[str, Any]:
    """What `intruders evaluate --base --out` writes, where the loss on pydoc rose by something in between."""
    middle = {"estimate": (low + high) / 2, "low": low, "high": high}
    losses = [{"corpus": "pydoc", "difference": middle}, {"corpus": "other"}]
    return {"schema": 1, "model": "tuned", "base": "base", "losses": losses}


@pytest.mark.parametrize("folder", [".", "evaluation"])
@pytest.mark.parametrize("intruder_rate", [0.0, 0.3])
def test_no_measured_forgetting_is_nothing_to_do(tmp_path: Path, folder: str, intruder_rate: float) -> None:
    audit = made_up_audit(layers=2, intruder_rate=intruder_rate)
    dataclasses.replace(audit, base_source="base", tuned_source="tuned").save(tmp_path / "audit.json")
    (tmp_path / folder).mkdir(exist_ok=True)
    write(tmp_path / folder / "evaluation.json", evaluation(-0.01, 0.03))
    sentence = advise(tmp_path).steps[0].sentence
    assert sentence == (
        "Keep the model: no forgetting was measured. Its loss did not clearly rise (on pydoc by +0.010 "
        "[-0.010, +0.030] nats per token, perplexity times 1.01)."
    )
    commands = [step.command[1] for step in advise(tmp_path).steps if step.command]
    assert not {"heal", "mitigate", "remedies"} & set(commands)


def test_a_rise_on_one_document_does_not_keep_the_model(tmp_path: Path) -> None:
    """`evaluate --max-documents 1` writes ends that are null: the spread is unknown, and so is whether it rose."""
    audit = made_up_audit(layers=2, intruder_rate=0.3)
    dataclasses.replace(audit, base_source="base", tuned_source="tuned").save(tmp_path / "audit.json")
    document = evaluation(-0.01, 0.03)
    document["losses"][0]["difference"] = {"estimate": 2.0, "low": None, "high": None}
    write(tmp_path / "evaluation.json", document)
    first, second, *_ = advise(tmp_path).steps
    unknown = (
        "The loss was measured on too few documents to tell whether it rose: it changed on pydoc by +2.000 nats per "
        "token, perplexity times 7.39. Measure it on more with `intruders evaluate` before you change the model."
    )
    assert first.sentence == unknown
    assert second.command is not None
    assert second.command[:4] == ("intruders", "heal", "base", "tuned")
    # One corpus that did not rise does not speak for another of one document.
    document["losses"].append({"corpus": "flat", "difference": {"estimate": 0.0, "low": -0.1, "high": 0.1}})
    write(tmp_path / "evaluation.json", document)
    assert advise(tmp_path).steps[0].sentence == unknown
    # One that clearly rose speaks for itself.
    document["losses"].append({"corpus": "risen", "difference": {"estimate": 1.0, "low": 0.5, "high": 1.5}})
    write(tmp_path / "evaluation.json", document)
    assert advise(tmp_path).steps[0].sentence == (
        "Fine-tuning raised the loss on risen by +1.000 [+0.500, +1.500] nats per token, perplexity times 2.72."
    )


def test_measured_forgetting_is_healed(tmp_path: Path) -> None:
    audit = dataclasses.replace(
        made_up_audit(layers=2, intruder_rate=0.3), base_source="base", tuned_source="tuned"
    )
    audit.save(tmp_path / "audit.json")
    write(tmp_path / "evaluation.json", evaluation(0.2, 0.4))
    first, second, *_ = advise(tmp_path).steps
    assert first.sentence == (
        "Fine-tuning raised the loss on pydoc by +0.300 [+0.200, +0.400] nats per token, perplexity times 1.35."
    )
    assert second.command is not None
    assert second.command[:4] == ("intruders", "heal", "base", "tuned")
    write(tmp_path / "evaluation.json", {"schema": 1, "losses": [{"corpus": "pydoc", "difference": 3}]})
    with pytest.raises(IntrudersError, match="its losses cannot be read"):
        advise(tmp_path)


def test_an_evaluation_of_another_model_is_noted_and_not_used(tmp_path: Path) -> None:
    audit = dataclasses.replace(
        made_up_audit(layers=2, intruder_rate=0.3), base_source="base", tuned_source="tuned"
    )
    audit.save(tmp_path / "audit.json")
    alone = advise(tmp_path)
    of_others = {
        "evaluation.json is of 'full', not of this audit's 'tuned'": {"model": "full"},
        "evaluation.json is of 'model', not of this audit's 'tuned'": {
            "model": "model"
        },  # and no study's run
        "evaluation.json compares with 'other', not with this audit's 'base'": {"base": "other"},
    }
    for note, names in of_others.items():
        write(tmp_path / "evaluation.json", evaluation(-0.01, 0.03) | names)
        advised = advise(tmp_path)
        assert advised.steps == alone.steps
        assert advised.notes == [*alone.notes, note]


def test_an_evaluation_of_the_audited_model_may_name_it_by_another_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    audit = made_up_audit(layers=2, intruder_rate=0.3)
    models = {"base_source": str(tmp_path / "base"), "tuned_source": "runs/tuned"}
    dataclasses.replace(audit, **models).save(tmp_path / "audit.json")
    names = {"model": str(tmp_path / "runs" / "tuned"), "base": "./base"}
    write(tmp_path / "evaluation.json", evaluation(-0.01, 0.03) | names)
    assert advise("audit.json").steps[0].sentence.startswith("Keep the model: no forgetting was measured.")


def test_the_evaluation_of_a_studys_run_is_of_its_own_audit_alone(tmp_path: Path) -> None:
    audit = made_up_audit(layers=2, intruder_rate=0.3)
    models = {"base_source": "base", "tuned_source": "runs/x/model"}
    for name in ("audit.json", "other.json"):
        dataclasses.replace(audit, **models).save(tmp_path / name)
    (tmp_path / "evaluation").mkdir()
    write(tmp_path / "evaluation" / "evaluation.json", evaluation(-0.01, 0.03) | {"model": "model"})
    write(tmp_path / "intervention.json", sweep())
    as_a_studys_run(tmp_path)
    own, other = advise(tmp_path), advise(tmp_path / "other.json")
    assert own.steps[0].sentence.startswith("Keep the model: no forgetting was measured.")
    assert "mitigation" in [piece.topic for piece in own.advice]
    assert not other.steps[0].sentence.startswith("Keep the model")
    assert "mitigation" not in [piece.topic for piece in other.advice]
    assert [note.split(" ")[0] for note in other.notes[-2:]] == ["evaluation.json", "intervention.json"]


@pytest.fixture
def adapter(llama: Path, tmp_path: Path) -> Path:
    from transformers import AutoModelForCausalLM

    saved(hot_llama(model=AutoModelForCausalLM.from_pretrained(llama)), tmp_path / "adapter")
    return tmp_path / "adapter"


def test_an_adapter_is_audited_and_its_scale_measured(llama: Path, adapter: Path) -> None:
    found = advise(adapter, k=4)
    audit = intruders.audit(llama, adapter, k=4)
    assert audit.intruders > 0
    (one,) = (one for one in found.advice if one.topic == "scale")
    assert f"measured: {audit.intruders} intruders at the scale it has" in one.evidence[0]
    largest = float(one.change.split("at most ")[1].split(" ")[0])
    assert intruders.audit(llama, f"{adapter}@{largest}", k=4).intruders == 0


def test_a_full_fine_tuning_is_compared_with_the_base_of_its_run(llama: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(llama)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "q_proj" in name:
                weight += 3 * torch.outer(torch.ones(weight.shape[0]), torch.ones(weight.shape[1]))
    model.save_pretrained(tmp_path)
    write(tmp_path / "run.json", {"schema": 1, "status": "finished", "config": {"base": str(llama)}})
    found = advise(tmp_path, k=4)
    assert found.kind == "model"
    assert found.notes[0].split(" ")[0] == str(intruders.audit(llama, tmp_path, k=4).intruders)
    write(tmp_path / "run.json", {"schema": 1, "status": "running", "config": {"base": str(llama)}})
    with pytest.raises(IntrudersError, match="is not finished"):
        advise(tmp_path)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: None, "contains no weights"),
        (lambda folder: (folder / "audit.json").write_text("{"), "cannot be read as a saved audit"),
        (lambda folder: (folder / "audit.parquet").write_bytes(b"PAR1"), "cannot be read as a saved audit"),
        (lambda folder: (folder / "study.json").write_text("[]"), "is the folder of a study"),
        (
            lambda folder: (folder / "run.json").write_text("nonsense"),
            "cannot be read as the record of a run",
        ),
        (lambda folder: write(folder / "run.json", []), "is not the record of a run"),
        (lambda folder: write(folder / "run.json", {"schema": 1}), "does not name a base"),
        (lambda folder: broken_beside(folder, "scale.json", {}), "not a file of critical scales"),
        (
            lambda folder: broken_beside(folder, "scale.json", {"matrices": 3}),
            "not a file of critical scales",
        ),
        (lambda folder: broken_beside(folder, "intervention.json", {}), "has no rows"),
        (
            lambda folder: broken_beside(
                folder, "intervention.json", {"schema": 1, "rows": [{"control": "intruders"}]}
            ),
            "its rows cannot be read",
        ),
    ],
)
def test_bad_input(tmp_path: Path, prepare: Callable[[Path], Any], message: str) -> None:
    prepare(tmp_path)
    with pytest.raises(IntrudersError, match=message) as raised:
        advise(tmp_path)
    assert "\n" not in str(raised.value)


def broken_beside(folder: Path, name: str, document: Any) -> None:
    made_up_audit(layers=1, intruder_rate=0.3).save(folder / "audit.json")
    as_a_studys_run(folder)
    write(folder / name, document)


@pytest.mark.parametrize("source", ["", "no/such/place", "a\0b", "x" * 5000, "gone.json"])
def test_what_is_not_there(source: str) -> None:
    with pytest.raises(IntrudersError):
        advise(source)


def test_settings_out_of_range(llama: Path) -> None:
    for settings in ({"k": 0}, {"epsilon": 0.0}, {"epsilon": 1.5}):
        with pytest.raises(IntrudersError):
            advise(llama, **settings)  # type: ignore[arg-type]
