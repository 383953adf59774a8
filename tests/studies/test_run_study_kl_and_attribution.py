"""A study that measures the KL to the base and the parts of its loss rise: what is in its tables, and its plan."""

import json
from pathlib import Path

import pytest

from intruders.data.columns import Columns
from intruders.data.load_task import load_task
from intruders.measures.kl_on_task import kl_on_task
from intruders.studies.results import load_results
from intruders.studies.run_study import run_study
from intruders.studies.runs import expand
from intruders.studies.stages import amounts_of
from tests.json_lines import write_rows
from tests.studies.tiny_study import BRIEF, parsed, tiny_study
from tests.tiny import short_task

MEASURE = BRIEF | {
    "loss_on": ["pydoc"],
    "max_documents": 2,
    "max_tokens": 32,
    "kl_to_base": {"max_examples": 3},
    "attribute": {"nodes": 5, "check": 0, "max_documents": 2, "max_tokens": 32, "max_examples": 2},
}


def test_the_tables_have_the_kl_the_rotation_and_the_parts_of_the_rise(llama: Path, tmp_path: Path) -> None:
    study = parsed(tiny_study(llama, measure=MEASURE, audit_steps=None))
    amounts = amounts_of(expand(study))
    assert "KL to the base: 2 runs" in amounts
    assert "attributions: 2 runs" in amounts
    outcome = run_study(study, tmp_path / "out")
    assert outcome.failed == {}
    results = load_results(tmp_path / "out")
    task = load_task(short_task(llama.parent), Columns(), 0)
    for row in results.runs.itertuples():
        model = tmp_path / "out" / "runs" / str(row.run_id) / "model"
        kl = kl_on_task(str(llama), str(model), task, max_examples=3)
        assert row.kl_prompts == pytest.approx(kl.prompts.estimate)
        assert row.kl_answers == pytest.approx(kl.answers.estimate)
        assert 0 < row.rotation < 1
        own = results.attributions[results.attributions["run_id"] == row.run_id]
        matrices = results.matrices[results.matrices["run_id"] == row.run_id]
        assert set(own["name"]) == set(matrices["name"])
        assert dict(zip(own["name"], own["frobenius"], strict=True)) == dict(
            zip(matrices["name"], matrices["frobenius"], strict=True)
        )
        assert own["intruders"].sum() == row.intruders
        document = json.loads((model.parent / "attribution.json").read_text())
        parts = {module["name"]: module["parts"]["pydoc"]["estimate"] for module in document["modules"]}
        assert dict(zip(own["name"], own["part"], strict=True)) == parts
        assert (own["rise"] == document["rise"]).all()


def test_rows_that_the_training_drops_are_not_measured_either(llama: Path, tmp_path: Path) -> None:
    """Beside the same rows without them: the long row is of 600 tokens, more than the model reads."""
    rows = [{"p": f"{number % 3}:", "c": "ab"} for number in range(16)]
    long = {"p": "0:" * 300, "c": "ab"}
    write_rows(tmp_path / "train.jsonl", [*rows, long])
    others = [{"p": f"{number}:", "c": "ab"} for number in range(3, 6)]
    write_rows(tmp_path / "long.jsonl", [others[0], long | {"p": "3:" * 300}, *others[1:]])
    write_rows(tmp_path / "short.jsonl", others)
    measures = MEASURE | {
        "max_examples": 4,
        "kl_to_base": {"max_examples": 4},
        "attribute": None,
        "intervene": {"scales": [0], "controls": ["shrink"]},
        "remedies": {"only": ["interpolate"], "strengths": 1},
    }
    experiments = {
        name: tiny_study(
            llama,
            task=f"{tmp_path / 'train.jsonl'}?prompt=p&completion=c&validation={rows_of}&test={rows_of}",
            drop_too_long=True,
            audit_steps=None,
            methods=[{"method": "lora", "rank": 1, "lr": 0.5}],
            measure=measures,
        )["experiments"]["matched"]
        for name in ("long", "short")
        for rows_of in [tmp_path / f"{name}.jsonl"]
    }
    outcome = run_study(parsed({"name": "tiny", "experiments": experiments}), tmp_path / "out")
    assert outcome.failed == {}
    folders = sorted((tmp_path / "out" / "runs").iterdir())
    kls = [json.loads((folder / "kl.json").read_text()) for folder in folders]
    assert len(kls) == 2
    assert [kl["examples"] for kl in kls] == [3, 3]
    assert kls[0]["answers"] == pytest.approx(kls[1]["answers"])
    evaluations = [json.loads((folder / "evaluation/evaluation.json").read_text()) for folder in folders]
    scores = [evaluation["tasks"] for evaluation in evaluations]
    assert [score["examples"] for (score,) in scores] == [3, 3]
    assert scores[0][0]["accuracy"] == scores[1][0]["accuracy"]
    swept = [json.loads((folder / "intervention.json").read_text())["rows"] for folder in folders]
    assert {row["measure"] for row in swept[0]} == {"loss", "accuracy"}
    compared = [json.loads((folder / "remedies" / "remedies.json").read_text()) for folder in folders]
    assert [comparison["data"]["report"]["examples"] for comparison in compared] == [3, 3]
    measured = [[row["value"] for row in rows] for rows in swept]
    assert measured[0] == pytest.approx(measured[1])
    on_task = [
        [value for point in comparison["curve"] for value in point["task_losses"].values()]
        for comparison in compared
    ]
    assert len(on_task[0]) == 11
    assert on_task[0] == pytest.approx(on_task[1])
