"""The paper's figures beside a study's own: matched by settings, with intervals, and as printed in the paper."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from intruders.errors import ResultFileError
from intruders.studies.results import Results
from intruders.studies.runs import expand
from intruders_research.published.beside_paper import FILE, BesidePaper, beside_paper
from intruders_research.read_study import PAPER_STUDIES, read_study
from tests.studies.planted import run, study

EXAMPLES = Path(__file__).parents[3] / "research" / "examples"
ROBERTA = "FacebookAI/roberta-base"


def mnli(run_id: str, **changes: Any) -> dict[str, Any]:
    settings = {
        "base": ROBERTA,
        "task": "mnli",
        "method": "lora",
        "rank": 1,
        "alpha": "2r",
        "lr": 1.2e-3,
        "epochs": 5.0,
    }
    return run(run_id, **(settings | changes))


def tables(results: Results) -> dict[str, BesidePaper]:
    return {table.source: table for table in beside_paper(replace(results, compare_with="paper-roberta"))}


def test_the_figures_are_those_that_the_paper_prints() -> None:
    studies = json.loads(FILE.read_text(encoding="utf-8"))["studies"]
    of_roberta = {table["source"]: table["rows"] for table in studies["paper-roberta"]["tables"]}
    found = {(row["task"], row.get("rank")): row["accuracy"] for row in of_roberta["Table 2"]}
    assert len(found) == 42
    assert (found["mnli", 1], found["fever", None], found["siqa", 64]) == (0.8677, 0.6892, 0.6167)
    changes = {
        (row["task"], row["rank"], row["scale"]): (row["accuracy_change"], row["forgetting_change"])
        for row in of_roberta["Table 3"]
    }
    assert len(changes) == 30
    assert changes["mnli", 1, 0.1] == (-18.7, -13.3)
    assert changes["fever", 8, 0.7] == (1.3, -9.7)
    assert set(studies) == set(PAPER_STUDIES)


def test_every_figure_of_table_2_and_3_has_a_run_of_the_papers_file() -> None:
    runs = expand(read_study(EXAMPLES / "paper-roberta.yaml"))
    rows = [
        mnli(one.id) | {name: getattr(one.config, name) for name in ("task", "method", "rank", "alpha", "lr", "epochs")}
        | {"seed": one.seed, "base": one.base}
        for one in runs
        if one.kind == "finetune"
    ]  # fmt: skip
    rows = [row | ({"rank": None, "alpha": None} if row["method"] == "full" else {}) for row in rows]
    table = tables(study(runs=rows))["Table 2"]
    assert table.known == 42
    of_mnli = table.frame[(table.frame["task"] == "mnli") & (table.frame["method"] == "lora")]
    assert of_mnli["seeds"].tolist() == [5] * 6  # appendix N
    swept = [one for one in runs if one.measure.intervene is not None]
    assert {(one.config.task, one.config.rank) for one in swept if one.config} == {
        (task, rank) for task in ("mnli", "qqp", "fever") for rank in (1, 8)
    }
    # The rule: alpha = 2r, and alpha x lr = 2.4e-3.
    by_rule = [
        run.config for run in runs if run.config and run.config.method != "full" and run.config.alpha == "2r"
    ]
    by_rule = [config for config in by_rule if not (config.rank == 8 and config.lr in (7.5e-5, 3e-4, 6e-4))]
    assert len(by_rule) > 60
    for config in by_rule:
        assert config.lora_alpha * config.lr == pytest.approx(2.4e-3)


def test_accuracies_are_means_over_seeds_and_other_settings_are_not_mixed_in() -> None:
    rows = [mnli(f"s{seed}", seed=seed, accuracy=0.86 + seed / 100) for seed in range(3)]
    rows += [mnli("other", lr=3e-4, accuracy=0.1), mnli("constant", alpha="8", accuracy=0.1)]
    rows += [mnli("elsewhere", base="tiny", accuracy=0.1)]
    rows += [mnli("one", task="qqp", accuracy=0.9, accuracy_low=0.88, accuracy_high=0.92)]
    frame = tables(study(runs=rows))["Table 2"].frame
    of_rank_1 = frame[(frame["method"] == "lora") & (frame["rank"] == 1)].set_index("task")
    ours = of_rank_1.loc["mnli"]
    assert ours["ours"] == pytest.approx(0.87)
    # Student's t with two degrees of freedom: 4.303 * 0.01 / sqrt(3).
    assert ours["ours high"] - ours["ours"] == pytest.approx(4.3027 * 0.01 / 3**0.5, rel=1e-4)
    assert (ours["paper"], ours["seeds"]) == (0.8677, 3)
    single = of_rank_1.loc["qqp"]
    assert (single["ours low"], single["ours high"]) == (0.88, 0.92)
    assert frame["ours"].notna().sum() == 2


def point(
    scale: float, measure: str, value: float, change: float, which: str = "top", **more: Any
) -> dict[str, Any]:
    return {
        "run_id": "s0", "which": which, "control": "intruders", "scale": scale, "measure": measure, "on": measure,
        "value": value, "change": change, "change_low": change - 0.01, "change_high": change + 0.01,
        "base_value": 2.0 if measure == "loss" else None,
    } | more  # fmt: skip


def test_changes_by_scale_are_in_percent_of_the_tuned_models_own() -> None:
    points = [
        point(1.0, "loss", 2.5, 0.0), point(0.3, "loss", 2.4, -0.1),
        point(1.0, "accuracy", 0.8, 0.0), point(0.3, "accuracy", 0.76, -0.04),
        point(0.3, "loss", 2.1, -0.4, which="all"), point(0.3, "loss", 2.45, -0.05, control="neighbours"),
    ]  # fmt: skip
    frame = tables(study(runs=[mnli("s0")], interventions=points))["Table 3"].frame
    known = frame[frame["ours"].notna()]
    assert known[["task", "rank", "lambda", "change of"]].to_numpy().tolist() == [
        ["mnli", 1, 0.3, "accuracy"],
        ["mnli", 1, 0.3, "forgetting"],
    ]
    assert known["ours"].tolist() == pytest.approx([-5.0, -20.0])  # -0.04 of 0.8, -0.1 of 0.5 nats
    assert known["ours low"].tolist() == pytest.approx([-6.25, -22.0])
    assert known["paper"].tolist() == [-8.3, -14.5]


def test_the_correlation_is_over_the_runs_of_the_rank() -> None:
    rows = [
        mnli(
            f"r{n}",
            rank=8,
            lr=1e-4 * (n + 1),
            epochs=float(n + 1),
            intruders=n,
            loss=3.0 + n,
            accuracy=0.9 - n / 100,
        )
        for n in range(6)
    ]
    frame = tables(study(runs=rows))["Figure 7"].frame.set_index("intruders with")
    assert frame.loc["loss", ["paper", "ours", "runs"]].tolist() == pytest.approx([0.971, 1.0, 6])
    assert frame.loc["accuracy", "ours"] == pytest.approx(-1.0)


def test_lines_name_the_table_and_missing_figures_are_dashes() -> None:
    table = tables(study(runs=[mnli("s0")]))["Table 2"]
    lines = table.lines()
    assert lines[0] == "Accuracy, alpha = 2r (the paper's Table 2; 1 of 42 with a run of this study)"
    assert "95 % CI" in lines[1]
    assert any("0.8677" in line and "0.9 " in line for line in lines)
    assert any(line.rstrip().endswith("0") and " - " in line for line in lines[3:])
    assert beside_paper(study(runs=[mnli("s0")])) == []


def test_seeds_of_one_setting_are_one_setting_also_where_the_run_has_steps_instead_of_epochs() -> None:
    """A missing number of epochs equals no other, so that every seed would count as a setting of its own."""
    rows = [
        mnli(
            f"r{n}", rank=8, epochs=None, steps=500, seed=n, intruders=n, loss=3.0 + n, accuracy=0.9 - n / 100
        )
        for n in range(5)
    ]
    frame = tables(study(runs=rows))["Figure 7"].frame.set_index("intruders with")
    assert frame.loc["loss", "runs"] == 5
    assert math.isinf(frame.loc["loss", "ours low"])


def test_a_record_that_names_no_tables_of_the_paper_is_refused() -> None:
    results = replace(study(runs=[run("one")]), compare_with="paper-gpt")
    with pytest.raises(ResultFileError, match="'paper-gpt'; expected one of paper-roberta, paper-llama"):
        beside_paper(results)
