"""Do LoRA and full fine-tuning at equal score leave different spectra?"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from intruders.charts.chart import Axis, Chart
from intruders.measures.intervals import mean_interval
from intruders.studies.results import Results

from .shared.chosen_rates import Choice, choices, chosen_in
from .shared.claim import Claim, Finding
from .shared.equal_score import at_equal_score
from .shared.evidence import Evidence
from .shared.pictures import Palette, by_method_and_rank, in_order, lines, listed, parts, values
from .shared.seed_tables import complete, noted_complete, on_shared_matrices, one_in_100, seed_table, seeds_in
from .shared.strata import LOSS_ALIKE, MEASURED_ALIKE, Stratum, finished, largest_alike, strata
from .shared.words import said

CLAIM = Claim(
    name="structure",
    title="Structure",
    question="Do LoRA and full fine-tuning at equal score leave different spectra?",
    paper="At equal task score, LoRA leaves intruder dimensions in the weights and full fine-tuning does not.",
    meaning="LoRA left more of them than full fine-tuning at the same score",
    needs=(
        "this needs finished, audited runs of `lora` and of `full` on one base and task that reached one "
        "score"
    ),
    limits=(
        (
            "Equal score is the match criterion on the validation split; test accuracies still differ a little, "
            "and are in the table."
        ),
        "The interval is over seeds of these settings. It says nothing of other tasks, bases or learning rates.",
    ),
)


EPSILONS = [round(0.05 * step, 2) for step in range(2, 19)]


def analyse(results: Results) -> Finding:
    """Compare the intruders per 100 vectors of every LoRA setting with full fine-tuning, paired by seed."""
    evidence = Evidence(results.primary.get(CLAIM.name, ""))
    rows, of_runs = [], [results.runs.iloc[:0]]
    for stratum in strata(finished(results.runs), MEASURED_ALIKE):
        reached, missed = at_equal_score(stratum)
        equal, unshared = on_shared_matrices(reached, results.matrices, stratum.label)
        evidence.notes += [*stratum.notes, *missed, *unshared]
        chosen = list(choices(stratum, equal, results.select))
        rows += _by_setting(stratum, equal.assign(chosen=chosen_in(equal, chosen)))
        of_runs.append(equal)
        for choice in chosen:
            _add_loss(evidence, choice)
            differences, left_out = noted_complete(_against_full(choice.runs), choice.on.label)
            evidence.notes += [*choice.notes, *left_out]
            if differences.empty:
                continue
            difference = mean_interval(
                differences.mean(axis=1), grain=one_in_100(equal, differences.shape[1])
            )
            evidence.add(
                choice.on,
                "intruders per 100 vectors, LoRA minus full",
                difference,
                phrase=f"intruders per 100 vectors {_at_score(equal)}, LoRA minus full fine-tuning "
                + said(difference),
            )
    compared = pd.concat(of_runs)
    return evidence.finding(
        CLAIM,
        runs=compared["run_id"],
        tables={
            "Intruders by setting": pd.DataFrame(rows),
            "Intruders over epsilon": _over_epsilon(compared, results.vectors),
            "Intruders over k": _over_k(compared, results.vectors),
            "Similarity matrices": _examples(compared, results.matrices),
        },
    )


def _against_full(equal: pd.DataFrame, column: str = "per_100") -> pd.DataFrame:
    """Return a column, such as intruders per 100, minus the mean of the seed's full runs: seeds by LoRA settings."""
    lora = seed_table(equal[equal["method"] == "lora"], column)
    full = complete(seed_table(equal[equal["method"] == "full"], column)).mean(axis=1)
    return lora.sub(full, axis=0).dropna(how="all")


def _add_loss(evidence: Evidence, choice: Choice) -> None:
    """Add what LoRA forgot more than full fine-tuning. The claim says nothing of it unless a study names it first."""
    measured = _largest_corpus(choice.runs)
    differences = complete(_against_full(measured, "loss_change"))
    if differences.empty:
        return
    what = "loss change, LoRA minus full, nats per token"
    difference = mean_interval(differences.mean(axis=1))
    phrase = (
        f"loss change {_at_score(measured)}, LoRA minus full fine-tuning {said(difference, 3)} nats per token"
    )
    is_primary = evidence.is_primary(what)
    evidence.add(
        choice.on, what, difference, 1 if is_primary else None, digits=3, phrase=phrase if is_primary else ""
    )


def _at_score(runs: pd.DataFrame) -> str:
    """Say how the scores of the runs of :func:`at_equal_score` agree: only a match criterion makes them equal."""
    return (
        "at equal score"
        if (runs["stopped_by"] == "match").all()
        else "where accuracies agree within intervals"
    )


def _largest_corpus(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs whose loss was measured alike; none if no loss was measured."""
    known = runs[runs["loss_change"].notna()]
    return largest_alike(known, LOSS_ALIKE) if len(known) else known


def _by_setting(stratum: Stratum, equal: pd.DataFrame) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for _, runs in equal.groupby("setting"):
        per_seed = seed_table(runs, "per_100").mean(axis=1)
        share = mean_interval(per_seed, grain=one_in_100(runs))
        first = runs.iloc[0]
        rows.append(
            {
                "base": stratum.on.base,
                "task": stratum.on.task,
                "setting": first["described"],
                "method": first["method"],
                "rank": first["rank"] if first["method"] != "full" else None,
                "chosen": first["chosen"],
                "seeds": seeds_in(runs),
                **share.columns("intruders_per_100_vectors"),
                "affected_matrices": runs["affected_matrices"].mean(),
                "matrices": runs["matrices"].mean(),
                "energy_share": runs["intruder_energy_share"].mean(),
                "accuracy": runs["accuracy"].mean(),
            }
        )
    return rows


def _over_epsilon(runs: pd.DataFrame, vectors: pd.DataFrame) -> pd.DataFrame:
    """Count intruders per 100 vectors at other epsilons: at least and at most, by the cosines' proved bounds."""
    rows = []
    for setting, inside in _vectors_by_setting(runs, vectors):
        for epsilon in EPSILONS:
            below = (inside[["max_cosine_upper", "max_cosine_lower"]] < epsilon).mean()
            rows.append((*setting, epsilon, *(100 * below)))
    columns = ["base", "task", "setting", "epsilon", "at_least_per_100", "at_most_per_100"]
    return pd.DataFrame(rows, columns=columns)


def _over_k(runs: pd.DataFrame, vectors: pd.DataFrame) -> pd.DataFrame:
    """Count the intruders per matrix among the top-k vectors, at the audit's own epsilon."""
    rows = []
    for setting, inside in _vectors_by_setting(runs, vectors):
        matrices = len(inside[["run_id", "name"]].drop_duplicates())
        at_index = inside["index"][inside["intruder"]].value_counts()
        for k in range(1, int(inside["index"].max()) + 2):
            rows.append((*setting, k, int(at_index[at_index.index < k].sum()) / matrices))
    return pd.DataFrame(rows, columns=["base", "task", "setting", "k", "intruders_per_matrix"])


def _vectors_by_setting(
    runs: pd.DataFrame, vectors: pd.DataFrame
) -> list[tuple[tuple[str, str, str], pd.DataFrame]]:
    if vectors.empty or runs.empty:
        return []
    known = vectors.merge(runs[["run_id", "base", "task", "described"]], on="run_id")
    return [
        ((str(base), str(task), str(described)), group)
        for (base, task, described), group in known.groupby(["base", "task", "described"])
    ]


def _examples(runs: pd.DataFrame, matrices: pd.DataFrame) -> pd.DataFrame:
    """Pick by base and task the LoRA matrix with the most intruders, and the same matrix after full fine-tuning.

    The report shows their similarity matrices.
    """
    columns = ["base", "task", "method", "setting", "run_id", "matrix", "intruders"]
    rows: list[list[object]] = []
    for (base, task), group in runs.groupby(["base", "task"]):
        known = matrices.merge(group[["run_id", "method", "described"]], on="run_id")
        lora = known[known["method"] == "lora"].sort_values(
            ["intruders", "run_id", "name"], ascending=[False, True, True]
        )
        if lora.empty:
            continue
        worst = lora.iloc[0]
        full = known[(known["method"] == "full") & (known["name"] == worst["name"])].sort_values("run_id")
        for row in [worst, *[full.iloc[i] for i in range(min(1, len(full)))]]:
            rows.append(
                [base, task, row["method"], row["described"], row["run_id"], row["name"], row["intruders"]]
            )
    return pd.DataFrame(rows, columns=columns)


_PER_100 = Axis("intruders_per_100_vectors", "intruders per 100 vectors", from_zero=True)


def charts(finding: Finding, palette: Palette) -> list[Chart]:
    """Draw the intruders by setting, with intervals over seeds; then over epsilon and over k."""
    return [
        *_chart_by_setting(finding, palette),
        *_chart_over_epsilon(finding, palette),
        *_chart_over_k(finding, palette),
    ]


def _chart_by_setting(finding: Finding, palette: Palette) -> Iterator[Chart]:
    for part in parts(finding.tables.get("Intruders by setting")):
        yield listed(
            f"structure-settings{part.slug}",
            part.titled("Intruders by setting"),
            part.rows,
            palette,
            _PER_100,
            value="intruders_per_100_vectors",
            low="low",
            high="high",
            order=by_method_and_rank(part.rows["setting"]),
            caption="Mean over seeds with its 95 % interval, where there are several.",
        )


def _chart_over_epsilon(finding: Finding, palette: Palette) -> Iterator[Chart]:
    for part in parts(finding.tables.get("Intruders over epsilon")):
        rows = part.rows.assign(middle=(part.rows["at_least_per_100"] + part.rows["at_most_per_100"]) / 2)
        yield Chart(
            f"structure-over-epsilon{part.slug}",
            part.titled("Intruders over epsilon"),
            Axis("epsilon", "epsilon"),
            _PER_100,
            in_order(
                lines(rows, palette, "epsilon", "middle", low="at_least_per_100", high="at_most_per_100", band=True)
            ),
            caption="Away from the audit's own epsilon some counts are open: a band shows from how many to how many.",
        )  # fmt: skip


def _chart_over_k(finding: Finding, palette: Palette) -> Iterator[Chart]:
    for part in parts(finding.tables.get("Intruders over k")):
        yield Chart(
            f"structure-over-k{part.slug}",
            part.titled("Intruders over k"),
            Axis("k", "k, leading vectors examined", marks=sorted(set(values(part.rows["k"])))),
            Axis("intruders_per_matrix", "intruders per matrix", from_zero=True),
            in_order(lines(part.rows, palette, "k", "intruders_per_matrix")),
        )
