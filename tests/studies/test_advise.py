"""Advice: given where numbers speak for it, and never without."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import typer
from typer.testing import CliRunner

import intruders
from intruders.audits.result.audit_result import Audit
from intruders.audits.scales.critical_scales_result import CriticalScales, MatrixScale
from intruders.checkpoints.opening.open import open_checkpoint
from intruders.checkpoints.stored.demo_models import DEMO_MODELS
from intruders.cli.advise import advise as command
from intruders.errors import IntrudersError
from intruders.linalg import spiked_threshold
from intruders.measures.intervals import Interval
from intruders.reports.advice.advice_text import advice_lines
from intruders.studies.advice import on_base as base_advice
from intruders.studies.advice.advise import advise
from intruders.studies.advice.on_study import advise_study
from intruders.studies.advice.on_verdicts import Verdict, is_on, verdicts_of
from intruders.studies.claims.shared.claim import Effect, Where
from intruders.studies.tables.results import Results
from intruders.studies.tables.table_columns import COLUMNS
from intruders.studies.tables.table_files import to_parquet
from intruders.studies.work.study_folder import StudyFolder
from tests.checkpoints.models import saved
from tests.made_up import made_up_audit
from tests.mitigation.hot import hot_llama
from tests.studies.tiny_study import parsed

from .planted import interventions, matched, noise, run, study


def topics(source: str | Path, **settings: Any) -> list[str]:
    return [one.topic for one in advise(source, **settings).advice]


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


def write(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document))


def scale_document(largest: float | None, there: int = 0) -> dict[str, Any]:
    matrices = [MatrixScale("a", (4, 4), 0.4, 0.5, 64), MatrixScale("b", (4, 4), math.inf, math.inf, 64)]
    at = math.inf if largest is None else largest
    return CriticalScales("base", "tuned", 10, 0.5, 0, at, there, matrices, 1.0).to_document()


def test_a_measured_scale_below_one_is_advice(tmp_path: Path) -> None:
    made_up_audit(layers=2, intruder_rate=0.3).save(tmp_path / "audit.json")
    write(tmp_path / "scale.json", scale_document(0.36))
    (one,) = (one for one in advise(tmp_path).advice if one.topic == "scale")
    assert "at most 0.36 times" in one.change
    assert "0 at 0.36 times it" in one.evidence[0]
    assert "0.5 times it" in one.evidence[1]
    write(tmp_path / "scale.json", scale_document(None))
    assert "scale" not in topics(tmp_path)


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


def test_a_control_that_does_as_well_is_named(tmp_path: Path) -> None:
    made_up_audit(layers=2, intruder_rate=0.3).save(tmp_path / "audit.json")
    write(tmp_path / "intervention.json", sweep(shrink=0.0))
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


def test_a_base_alone(llama: Path) -> None:
    found = advise(llama, k=4)
    assert found.kind == "base"
    (one,) = found.advice
    assert {line.split(":")[0] for line in one.evidence} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip


def test_the_room_of_a_base_is_where_random_terms_become_intruders() -> None:
    """Far below it a random rank-one term is none, well above it is one: dense decompositions of 20 draws each."""
    generator = torch.Generator().manual_seed(0)
    w0 = torch.randn(60, 90, generator=generator) @ torch.diag(torch.linspace(1, 0.1, 90))
    checkpoint = open_checkpoint({"layers.0.q_proj.weight": w0})
    (room,) = base_advice.rooms_of(checkpoint, 3, 0.5, lambda stage, done, total: None)
    left = torch.linalg.svd(w0)[0]
    shares = []
    for factor in (0.5, 2.0):
        found = 0
        for _ in range(20):
            u, v = torch.randn(60, generator=generator), torch.randn(90, generator=generator)
            term = factor * room.threshold * torch.outer(u / u.norm(), v / v.norm())
            tuned = torch.linalg.svd(w0 + term)[0][:, :3]
            found += bool(((left.T @ tuned).abs().amax(0) < 0.5).any())
        shares.append(found / 20)
    assert shares[0] < 0.2
    assert shares[1] > 0.8


def test_large_bases_are_sampled_to_the_same_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    w0 = torch.randn(200, 300, generator=generator) @ torch.diag(torch.linspace(2, 0.1, 300))
    checkpoint = open_checkpoint({"layers.0.q_proj.weight": w0})

    def threshold() -> float:
        return base_advice.rooms_of(checkpoint, 10, 0.5, lambda stage, done, total: None)[0].threshold

    dense = threshold()
    monkeypatch.setattr(spiked_threshold, "_DENSE_SIDE", 100)
    assert threshold() == pytest.approx(dense, rel=0.1)


def test_a_base_with_nan_is_refused() -> None:
    checkpoint = open_checkpoint({"layers.0.q_proj.weight": torch.full((8, 8), torch.nan)})
    with pytest.raises(IntrudersError, match=r"'layers.0.q_proj.weight' .* contains NaN or infinity"):
        base_advice.rooms_of(checkpoint, 2, 0.5, lambda stage, done, total: None)


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


def write_study(folder: Path, results: Results) -> Path:
    """A study's folder as `intruders study` leaves it, from made-up tables."""
    write(folder / "study.json", {"schema": 1, "name": "made-up"})
    for table in COLUMNS:
        frame = getattr(results, table)
        metadata = {b"intruders_study": json.dumps({"schema": 1, "table": table}).encode()}
        arrow = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(metadata)
        pq.write_table(arrow, folder / f"{table}.parquet")
    return folder


@pytest.mark.parametrize(
    ("gain", "change"),
    [
        (-0.4, "turn the complete update down"),
        (0.0, "compare before you scale intruders"),
        (0.4, "intruders scaled to 0 "),
    ],
)
def test_a_study_where_interpolation_was_measured(tmp_path: Path, gain: float, change: str) -> None:
    rows = matched(effect=1.0)
    swept = interventions(rows)
    gains = [
        row | {"measure": "gain", "on": "words", "change": gain + noise(row["run_id"], size=0.02)}
        for row in swept
        if row["measure"] == "accuracy" and row["control"] == "intruders"
    ]
    found = advise(write_study(tmp_path, study(runs=rows, interventions=swept + gains)))
    (one,) = (one for one in found.advice if one.topic == "mitigation")
    assert one.change.startswith(change)
    assert any("gain over interpolation at equal task loss" in line for line in one.evidence)


def test_a_study_with_clear_effects(tmp_path: Path) -> None:
    rows = [row | {"critical_scale": 0.3 + 0.01 * row["seed"]} for row in matched(effect=1.0)]
    found = advise(write_study(tmp_path, study(runs=rows, interventions=interventions(rows))))
    assert found.kind == "study"
    by_topic = {one.topic: one for one in found.advice}
    assert {"rank", "mitigation", "scale"} <= by_topic.keys()
    assert "the norm-matched shrink of the complete update saves" in " ".join(by_topic["mitigation"].evidence)
    scale = next(one for one in found.advice if one.topic == "scale" and "r=1 " in one.change)
    assert "at 0.3 of its scale" in scale.change
    assert "0.3, 0.31, 0.32 in 3 runs" in scale.evidence[0]
    assert all(one.evidence for one in found.advice)


def test_models_below_their_score_give_no_scale() -> None:
    rows = [row | {"critical_scale": 0.3} for row in matched(effect=1.0)]
    below = [row | ({"stopped_by": "steps"} if row["rank"] == 1 else {}) for row in rows]
    advice, _ = advise_study(study(runs=below))
    scales = [one.change for one in advice if one.topic == "scale"]
    assert len(scales) == 4
    assert not any("r=1 " in change for change in scales)


def test_a_study_without_effects_gives_no_advice() -> None:
    rows = [row | {"loss_change": 0.1 + noise(row["run_id"], size=0.01)} for row in matched(effect=0.0)]
    advice, notes = advise_study(study(runs=rows, interventions=interventions(rows, change=0, against=0)))
    assert advice == []
    assert any(note.startswith(("remedies: Undecided", "remedies: Contradicted")) for note in notes)


def test_a_study_of_one_seed_gives_no_advice_and_says_why() -> None:
    rows = matched(effect=1.0, seeds=1)
    advice, notes = advise_study(study(runs=rows, interventions=interventions(rows)))
    assert advice == []
    assert notes[0].startswith("one seed:")


def test_a_higher_rate_that_makes_intruders(tmp_path: Path) -> None:
    rows = [
        run(f"{lr}-{seed}", lr=lr, seed=seed, intruders=10 + round(20 * (lr > 5e-4) + noise(lr, seed)))
        for seed in range(3)
        for lr in (1e-4, 1e-3)
    ]
    advice, _ = advise_study(study(runs=rows))
    one = next(one for one in advice if one.topic == "learning rate" and "for fewer intruders" in one.change)
    assert one.change == "lower learning rate for fewer intruders"
    assert "from 0.0001 to 0.001" in one.evidence[0]


def test_an_empty_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IntrudersError, match="has no runs yet"):
        advise(write_study(tmp_path, study()))


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: None, "contains no weights"),
        (lambda folder: (folder / "audit.json").write_text("{"), "cannot be read as a saved audit"),
        (lambda folder: (folder / "audit.parquet").write_bytes(b"PAR1"), "cannot be read as a saved audit"),
        (lambda folder: write(folder / "study.json", {"schema": 99, "name": "x"}), "newer version"),
        (lambda folder: (folder / "study.json").write_text("[]"), "not the record of a study"),
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
    ],
)
def test_bad_input(tmp_path: Path, prepare: Callable[[Path], Any], message: str) -> None:
    prepare(tmp_path)
    with pytest.raises(IntrudersError, match=message) as raised:
        advise(tmp_path)
    assert "\n" not in str(raised.value)


def broken_beside(folder: Path, name: str, document: Any) -> None:
    made_up_audit(layers=1, intruder_rate=0.3).save(folder / "audit.json")
    write(folder / name, document)


@pytest.mark.parametrize("source", ["", "no/such/place", "a\0b", "x" * 5000, "gone.json"])
def test_what_is_not_there(source: str) -> None:
    with pytest.raises(IntrudersError):
        advise(source)


def test_settings_out_of_range(llama: Path) -> None:
    for settings in ({"k": 0}, {"epsilon": 0.0}, {"epsilon": 1.5}):
        with pytest.raises(IntrudersError):
            advise(llama, **settings)  # type: ignore[arg-type]


def test_the_command(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(command)
    made_up_audit(layers=2, intruder_rate=0.3).save(tmp_path / "audit.json")
    write(tmp_path / "scale.json", scale_document(0.36))
    result = CliRunner().invoke(app, [str(tmp_path), "--json", str(tmp_path / "advice.json")])
    assert result.exit_code == 0, result.output
    assert max(map(len, result.output.splitlines())) <= 80 + len(str(tmp_path))
    document = json.loads((tmp_path / "advice.json").read_text())
    assert document["schema"] == 1
    assert [step["command"] for step in document["steps"]] == [step.line for step in advise(tmp_path).steps]
    assert "what to do, in this order\n1. An audit does not measure forgetting." in result.output
    assert [one["topic"] for one in document["advice"]] == topics(tmp_path)
    piped = CliRunner().invoke(app, [str(tmp_path), "--json", "-"])
    assert json.loads(piped.output) == document
    missing = CliRunner().invoke(app, [str(tmp_path), "--json", str(tmp_path / "no" / "such.json")])
    assert isinstance(missing.exception, IntrudersError)


def study_folder(folder: Path, rows: list[dict[str, Any]], points: list[dict[str, Any]]) -> Path:
    """The tables of a study, as intruders study writes them."""
    folder.mkdir()
    place = StudyFolder(folder)
    experiment = {"base": "b", "task": "t", "steps": 1}
    analyses = ["structure", "intervention"]
    described = parsed({"name": folder.name, "analyses": analyses, "experiments": {"m": experiment}})
    place.keep(described, [])
    tables = {"runs": rows, "interventions": points}
    for table in COLUMNS:
        place.table(table).write_bytes(to_parquet(table, tables.get(table, [])))
    return folder


def test_verdicts_of_studies_stand_beside_the_advice_that_rests_on_them(tmp_path: Path) -> None:
    rows = matched(effect=1.0, base="llama")
    first = [row for row in rows if row["rank"] == 1]
    yes = study_folder(tmp_path / "yes", rows, interventions(first))
    no = study_folder(tmp_path / "no", rows, interventions(first, change=0.3, against=-0.2))
    other = matched(effect=1.0, base="another")
    elsewhere = study_folder(tmp_path / "elsewhere", other, [])
    audit = dataclasses.replace(made_up_audit(layers=2, intruder_rate=0.2, seed=1), base_source="llama")
    own = tmp_path / "run"
    own.mkdir()
    audit.save(own / "audit.json")
    sweep = [
        {"control": "intruders", "scale": 0.5, "measure": "loss", "on": "pydoc", "value": 2.0, "change": -0.5}
        | {"change_low": -0.6, "change_high": -0.4, "base_value": 1.0}
    ]
    (own / "intervention.json").write_text(json.dumps({"schema": 1, "skipped": None, "rows": sweep}))
    plain = advise(own)
    found = advise(own, studies=[yes, no, elsewhere])
    (before,) = [one for one in plain.advice if one.topic == "mitigation"]
    (after,) = [one for one in found.advice if one.topic == "mitigation"]
    assert after.change == before.change
    added = [text for text in after.evidence if text not in before.evidence]
    assert any(
        text.startswith(f"'{yes}', llama on words, pydoc: the claim intervention is supported: ")
        for text in added
    )
    against = [text for text in added if text.startswith(f"'{no}'")]
    assert against
    assert all("contradicted, which speaks against it" in text for text in against)
    assert not any(str(elsewhere) in text for text in added)
    assert f"'{elsewhere}' does not apply where it is of another base: another on words" in found.notes
    assert any("the claim structure is supported" in note for note in found.notes), (
        "of this base, beside the advice"
    )
    assert any("on another task it is a lead" in note for note in found.notes)


def test_a_study_of_a_demo_model_is_of_the_model_at_its_path() -> None:
    answer = Effect(Where("minilm-l6", "words"), "", Interval(1.0, 0.5, 1.5), 1, 3)
    verdict = Verdict(Path("runs"), "structure", answer)
    assert is_on(verdict, str(DEMO_MODELS["minilm-l6"].packaged()))
    assert not is_on(verdict, "smollm2-135m")


@pytest.mark.parametrize(
    "base", ["llama", "s3://models/llama", "C:/models/llama", "tests on words/llama", "a: b"]
)
def test_a_verdict_is_of_its_base_whatever_the_path_says(tmp_path: Path, base: str) -> None:
    """A base was read out of the label `BASE on TASK`, and cut at the first colon or ` on `."""
    rows = matched(effect=1.0, base=base)
    folder = study_folder(tmp_path / "study", [*rows, *matched(effect=1.0, base="tests")], [])
    ours = [verdict for verdict in verdicts_of(folder) if is_on(verdict, base)]
    assert ours
    assert all(verdict.answer.on.base == base for verdict in ours)
    assert not any(is_on(verdict, "another") for verdict in ours)
