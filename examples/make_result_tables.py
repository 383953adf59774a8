"""The tables of result pages that are made from published data, and the sentences of the summary.

python examples/make_result_tables.py            # writes them into docs/results
python examples/make_result_tables.py --check    # exit status 1, and the page, where one differs from the data

A table or list is found by how it begins, and what surrounds it stays.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from intruders.reports.effects.conclusions import conclusions
from intruders.reports.effects.read_effects import read_effects
from intruders.reports.effects.study_effect import StudyEffect
from intruders.reports.effects.write_effects import effect_table
from intruders.studies.claims import places, sequence
from intruders.studies.claims.every_claim import analyse_all
from intruders.studies.tables.results import Results, load_results

RESULTS = Path(__file__).parents[1] / "docs" / "results"
NAMES = {"lora": "LoRA", "rslora": "rsLoRA", "dora": "DoRA", "b-only": "B alone", "full": "full"}
MISSED = "\\*"  # the mark of a run that did not reach its score, which Markdown would read as emphasis
# What findings.json has before and after the name of a number that is correlated with what was forgotten.
_CORRELATION = ("rank correlation of ", " with the loss change")


@dataclass(frozen=True)
class ResultTable:
    """A table or list of a page: how it begins, and what makes it."""

    page: str
    begins: str
    made: Callable[[], list[str]]
    number: int = 0  # among those of the page that begin so


def tables() -> list[ResultTable]:
    """Every table that is made here."""
    sequences = load_results(RESULTS / "data" / "sequence")
    orders = list(dict.fromkeys(sequences.runs["task"]))
    begins = "| method, alpha = 2r | learning rate |"
    effects = read_effects(RESULTS / "data")
    return [
        ResultTable("all-effects.md", "| claim |", lambda: all_effects(effects)),
        ResultTable("summary.md", "- **LoRA leaves more intruders", lambda: conclusions(effects)),
        ResultTable("sequence.md", "| order, each method at its |", sequence_verdicts),
        *(
            ResultTable("sequence.md", begins, lambda order=order: sequence_runs(sequences, order), number)
            for number, order in enumerate(orders)
        ),
        ResultTable("what-predicts-forgetting.md", "| method, rank | rate |", runs_at_one_score),
        ResultTable("what-predicts-forgetting.md", "| number of a run |", correlations),
        ResultTable("the-usual-recipe.md", "| each method at its |", recipe_verdicts),
        ResultTable("the-usual-recipe.md", "| method, rank | rate |", recipe_runs),
        ResultTable("where-forgetting-sits.md", "| method, rank | rate |", runs_with_places),
    ]


def all_effects(effects: Sequence[StudyEffect]) -> list[str]:
    """The table without the note that follows it."""
    return [line for line in effect_table(effects) if line.startswith("|")]


def sequence_verdicts() -> list[str]:
    """Every effect of the sequences with its verdict, the order of most runs first."""
    answers = sorted(_finding("sequence", "sequence")["answers"], key=_is_second)
    rows = []
    before = ""
    for answer in answers:
        order = "second" if _is_second(answer) else "first"
        where = f"{order}, {answer['where'].split()[-2]} rate"
        is_intruders = answer["what"].startswith("intruders")
        numbers = [f"{answer[name]:+.{2 if is_intruders else 1}f}" for name in ("estimate", "low", "high")]
        what = answer["what"].removesuffix(", alpha = 2r, a rate for each rank")
        rows.append(
            [
                "" if where == before else where,
                f"*{answer['decision']}*{_lacking(answer)}",
                f"{what}: {numbers[0]} [{numbers[1]}, {numbers[2]}]; {answer['expected']}",
                str(answer["seeds"]),
            ]
        )
        before = where
    return _markdown(
        ["order, each method at its", "verdict", "effect (95 % CI); the claim expects", "seeds"], rows
    )


def _is_second(answer: dict[str, Any]) -> bool:
    """Whether an effect is of the order that does not begin with SST-2."""
    return "then sst2" in answer["where"]


def _lacking(answer: dict[str, Any]) -> str:
    """What a verdict lacks, in brackets and a few words."""
    lacking = answer["lacking"] or ""
    if "(Holm)" in lacking:
        is_against = (answer["estimate"] > 0) != (answer["expected"] == "above 0")
        return f" (clear alone{' against the claim' if is_against else ''}, not among all)"
    lacking = lacking.partition(";")[0].partition(",")[0].removesuffix(" at this spread")
    return f" ({lacking})" if lacking else ""


def _finding(study: str, claim: str) -> dict[str, Any]:
    document = json.loads((RESULTS / "data" / study / "findings.json").read_text(encoding="utf-8"))
    finding: dict[str, Any] = next(each for each in document["findings"] if each["name"] == claim)
    return finding


def sequence_runs(results: Results, order: str) -> list[str]:
    """Points forgotten, mean over the earlier tasks, and intruders after each stage, by setting and seed."""
    of_order = results.runs[(results.runs["task"] == order) & (results.runs["status"] == "finished")]
    # The analysis compares the runs that reached their score at every stage.
    forgotten = sequence.analyse(results).tables["Runs"].set_index("run_id")["forgetting"]
    seeds = sorted(of_order["seed"].unique())
    rows = []
    before = ""
    for method, rank, rate in _settings(of_order):
        label = NAMES[method] if method == "full" else f"{NAMES[method]}, rank {rank:g}"
        cells = []
        for seed in seeds:
            run = of_order[_is(of_order, method, rank, rate) & (of_order["seed"] == seed)]
            cells.append(_stages(results, run.iloc[0]["run_id"], forgotten) if len(run) else "-")
        rows.append(["" if label == before else label, _scientific(rate), *cells])
        before = label
    return _markdown(["method, alpha = 2r", "learning rate", *(f"seed {seed}" for seed in seeds)], rows)


def _stages(results: Results, run: str, forgotten: pd.Series[float]) -> str:
    if run not in forgotten.index:
        return "not reached"
    stages = results.sequences[results.sequences["run_id"] == run]
    intruders = stages.groupby("stage")["intruders"].first()
    return f"{forgotten[run]:.0f}; {' '.join(f'{count:.0f}' for count in intruders)}"


def runs_at_one_score() -> list[str]:
    """Each setting of what-predicts-forgetting: what every seed forgot, its intruders, and means of the rest."""
    rows = []
    for setting, own in _runs_by_setting("what-predicts-forgetting"):
        mean = own[
            ["accuracy", "kl_prompts", "update_frobenius", "update_output_energy", "a_movement"]
        ].mean()
        rows.append(
            [
                *setting,
                f"{mean['accuracy']:.2f}",
                ", ".join(f"{value:.3f}" for value in own["loss_change"]),
                f"{mean['kl_prompts']:.2f}",
                ", ".join(f"{count:.0f}" for count in own["intruders"]),
                f"{mean['update_frobenius']:.1f}",
                _scientific(mean["update_output_energy"], 1),
                "-" if math.isnan(mean["a_movement"]) else f"{mean['a_movement']:.2f}",
            ]
        )
    return _markdown(
        [
            "method, rank",
            "rate",
            "accuracy",
            "forgotten, by seed",
            "KL on prompts",
            "intruders, by seed",
            "update norm",
            "output energy",
            "movement of A",
        ],
        rows,
    )


def recipe_verdicts() -> list[str]:
    """The effect that was named in advance, at the fastest and at the mildest rates of the recipe."""
    rows = []
    for answer in _finding("the-usual-recipe", "structure")["answers"]:
        numbers = [f"{answer[name]:+.3f}" for name in ("estimate", "low", "high")]
        rows.append(
            [
                f"{answer['where'].split()[-2]} rate",
                f"*{answer['decision']}*{_lacking(answer)}",
                f"{numbers[0]} [{numbers[1]}, {numbers[2]}]; {answer['expected']}",
                str(answer["seeds"]),
            ]
        )
    return _markdown(
        [
            "each method at its",
            "verdict",
            "nats per token forgotten, LoRA minus full (95 % CI); expected",
            "seeds",
        ],
        rows,
    )


def recipe_runs() -> list[str]:
    """Each setting of the-usual-recipe: what every seed forgot, and means of the rest. A star is a missed score."""
    rows = []
    for setting, own in _runs_by_setting("the-usual-recipe"):
        mean = own[
            ["trained_steps", "accuracy", "update_frobenius", "relative_update", "effective_rank"]
        ].mean()
        rows.append(
            [
                *setting,
                f"{mean['trained_steps']:.0f}",
                f"{mean['accuracy']:.2f}",
                _forgotten(own),
                ", ".join(f"{count:.0f}" for count in own["intruders"]),
                f"{mean['update_frobenius']:.1f}",
                f"{100 * mean['relative_update']:.1f} %",
                f"{mean['effective_rank']:.0f}",
            ]
        )
    return _markdown(
        [
            "method, rank",
            "rate",
            "steps",
            "accuracy",
            "forgotten, by seed",
            "intruders, by seed",
            "update norm",
            "relative update",
            "effective rank",
        ],
        rows,
    )


def runs_with_places() -> list[str]:
    """Each setting of where-forgetting-sits: what every seed forgot, and how its parts go with intruders and norm."""
    study = "where-forgetting-sits"
    [finding] = analyse_all(load_results(RESULTS / "data" / study), [places.CLAIM.name])
    of_runs = finding.tables[places.TABLE].set_index("run_id")
    parts = _read(study, "attributions")
    rows = []
    for setting, own in _runs_by_setting(study):
        of_setting = of_runs.loc[of_runs.index.isin(own["run_id"])]
        inside, rise = of_setting.dropna(subset=["rise_inside"])[["rise_inside", "rise"]].mean()
        matrices = parts[parts["run_id"].isin(own["run_id"])]
        have = matrices["intruders"] > 0
        rows.append(
            [
                *setting,
                f"{own['accuracy'].mean():.2f}",
                _forgotten(own),
                ", ".join(f"{count:.0f}" for count in own["intruders"]),
                _signed(of_setting["correlation_intruders"].mean()),
                _signed(of_setting["correlation_frobenius"].mean()),
                _percent(have.mean()),
                _percent(matrices.loc[have, "part"].sum() / matrices["part"].sum()),
                _percent(inside / rise),
            ]
        )
    return _markdown(
        [
            "method, rank",
            "rate",
            "accuracy",
            "forgotten, by seed",
            "intruders, by seed",
            "with intruders",
            "with the norm",
            "matrices that have any",
            "their part of the rise",
            "inside the span",
        ],
        rows,
    )


def correlations() -> list[str]:
    """The rank correlation of every number of a run with what it forgot, the largest first."""
    finding = _finding("what-predicts-forgetting", "predictors")
    prefix, suffix = _CORRELATION
    rows = [
        (effect["estimate"], effect["what"].removeprefix(prefix).removesuffix(suffix), effect)
        for effect in finding["effects"]
        if effect["what"].startswith(prefix) and effect["what"].endswith(suffix)
    ]
    return _markdown(
        ["number of a run", "rank correlation with forgetting over settings (95 % CI)"],
        [
            [name, f"{estimate:+.2f} [{effect['low']:+.2f}, {effect['high']:+.2f}]"]
            for estimate, name, effect in sorted(rows, key=lambda row: -row[0])
        ],
    )


def _runs_by_setting(study: str) -> Iterator[tuple[list[str], pd.DataFrame]]:
    """Yield the first two cells of every setting's row, and its finished runs by seed."""
    runs = _read(study, "runs")
    runs = runs[runs["status"] == "finished"]
    for method, rank, rate in _settings(runs):
        name = NAMES[method] if method == "full" else f"{NAMES[method]}, {rank:g}"
        yield [name, _scientific(rate)], runs[_is(runs, method, rank, rate)].sort_values("seed")


def _settings(runs: pd.DataFrame) -> list[tuple[str, float, float]]:
    """Method, rank and learning rate of every setting, in the order of the study, full fine-tuning last."""
    methods = list(dict.fromkeys(runs["method"]))
    known = {(row.method, row.rank if row.method != "full" else 0.0, row.lr) for row in runs.itertuples()}
    return sorted(known, key=lambda each: (each[0] == "full", methods.index(each[0]), each[1], each[2]))


def _is(runs: pd.DataFrame, method: str, rank: float, rate: float) -> pd.Series[bool]:
    return (
        (runs["method"] == method)
        & (runs["lr"] == rate)
        & ((runs["method"] == "full") | (runs["rank"] == rank))
    )


def _forgotten(runs: pd.DataFrame) -> str:
    """What every run forgot, in nats per token, with a star where it did not reach its score."""
    return ", ".join(
        f"{run.loss_change:.3f}{'' if run.stopped_by == 'match' else MISSED}" for run in runs.itertuples()
    )


def _signed(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:+.2f}"


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.0f} %"


def _read(study: str, table: str) -> pd.DataFrame:
    return pd.read_parquet(RESULTS / "data" / study / f"{table}.parquet")


def _scientific(value: float, decimals: int = 0) -> str:
    digits, power = f"{value:.{decimals}e}".split("e")
    return f"{digits}e{int(power)}"


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    first, *others = (f"| {' | '.join(cells)} |".replace("|  |", "| |") for cells in [header, *rows])
    return [first, "|" + "---|" * len(header), *others]


def replaced(page: str, table: ResultTable) -> str:
    """Put a table or list in the place of the one that begins so."""
    lines = page.splitlines()
    begins = [number for number, line in enumerate(lines) if line.startswith(table.begins)]
    if len(begins) <= table.number:
        sys.exit(f"{table.page} has nothing of number {table.number + 1} that begins with {table.begins!r}")
    first = begins[table.number]
    mark = table.begins[0]  # of every line of a table, or of a list
    last = next(number for number in range(first, len(lines)) if not lines[number].startswith(mark))
    return "\n".join([*lines[:first], *table.made(), *lines[last:]]) + "\n"


def differing() -> Iterator[tuple[Path, str]]:
    """Yield the pages that differ from their data, and what they should be."""
    made = tables()
    for name in dict.fromkeys(table.page for table in made):
        file = RESULTS / name
        text = before = file.read_text(encoding="utf-8")
        for table in made:
            if table.page == name:
                text = replaced(text, table)
        if text != before:
            yield file, text


def main(arguments: Sequence[str]) -> None:
    pages = list(differing())
    if "--check" in arguments:
        for file, _ in pages:
            print(f"{file} differs from its data; run: python examples/make_result_tables.py")
        sys.exit(1 if pages else 0)
    for file, text in pages:
        file.write_text(text, encoding="utf-8")
        print(f"written: {file}")


if __name__ == "__main__":
    main(sys.argv[1:])
