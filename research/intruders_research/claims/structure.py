"""Do LoRA and full fine-tuning at equal score leave different spectra?"""

from collections.abc import Iterator

import pandas as pd

from intruders.charts.chart import Axis, Chart
from intruders.measures.intervals import mean_interval
from intruders.studies.results import Results

from .shared.chosen_rates import Choice, choices, chosen_in
from .shared.claim import Claim, Finding
from .shared.equal_score import at_equal_score
from .shared.evidence import Evidence
from .shared.pictures import Palette, in_order, lines, listed, parts, values
from .shared.seed_tables import (
    against_full,
    complete,
    noted_complete,
    on_shared_matrices,
    one_in_100,
    seed_table,
    seeds_in,
)
from .shared.strata import LOSS_ALIKE, MEASURED_ALIKE, Stratum, finished, largest_alike, per_setting, strata
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


_ALIKE = ["run_id", "base", "task", "described"]
EPSILONS = [round(0.05 * step, 2) for step in range(2, 19)]


def analyse(results: Results) -> Finding:
    """Compare the intruders per 100 vectors of every LoRA setting with full fine-tuning, paired by seed."""
    evidence = Evidence(CLAIM, results)
    runs = finished(results.runs)
    rows: list[dict[str, object]] = []
    of_runs = [runs.iloc[:0]]
    for stratum in strata(runs, MEASURED_ALIKE):
        equal = on_shared_matrices(at_equal_score(stratum), results.matrices)
        evidence.notes += equal.notes
        chosen = list(choices(equal, results.select))
        rows += _by_setting(equal.narrowed(equal.runs.assign(chosen=chosen_in(equal.runs, chosen))))
        of_runs.append(equal.runs)
        for choice in chosen:
            _add_loss(evidence, choice)
            differences, left_out = noted_complete(against_full(choice.runs, "per_100"), choice.on.label)
            evidence.notes += [*choice.notes, *left_out]
            if differences.empty:
                continue
            grain = one_in_100(equal.runs, differences.shape[1])
            difference = mean_interval(differences.mean(axis=1), grain=grain)
            phrase = f"intruders per 100 vectors {_at_score(equal.runs)}, LoRA minus full fine-tuning "
            what = "intruders per 100 vectors, LoRA minus full"
            evidence.add(choice.on, what, difference, phrase=phrase + said(difference))
    compared = pd.concat(of_runs)
    tables = {
        "Intruders by setting": pd.DataFrame(rows),
        "Intruders over epsilon": _over_epsilon(compared, results.vectors),
        "Intruders over k": _over_k(compared, results.vectors),
        "Similarity matrices": _examples(compared, results.matrices),
    }
    return evidence.finding(compared["run_id"], tables)


def _add_loss(evidence: Evidence, choice: Choice) -> None:
    """Add what LoRA forgot more than full fine-tuning. The claim says nothing of it unless a study names it first."""
    measured = choice.runs[choice.runs["loss_change"].notna()]
    measured = largest_alike(measured, LOSS_ALIKE) if len(measured) else measured
    differences = complete(against_full(measured, "loss_change"))
    if differences.empty:
        return
    what = "loss change, LoRA minus full, nats per token"
    difference = mean_interval(differences.mean(axis=1))
    phrase = (
        f"loss change {_at_score(measured)}, LoRA minus full fine-tuning {said(difference, 3)} nats per token"
    )
    evidence.add_if_named(choice.on, what, difference, phrase=phrase)


def _at_score(runs: pd.DataFrame) -> str:
    """Say how the scores of the runs of :func:`at_equal_score` agree: only a match criterion makes them equal."""
    is_matched = (runs["stopped_by"] == "match").all()
    return "at equal score" if is_matched else "where accuracies agree within intervals"


def _by_setting(stratum: Stratum) -> Iterator[dict[str, object]]:
    for _, runs in stratum.runs.groupby("setting"):
        per_seed = seed_table(runs, "per_100").mean(axis=1)
        share = mean_interval(per_seed, grain=one_in_100(runs))
        first = runs.iloc[0]
        yield stratum.on.columns | {
            "setting": first["described"],
            "method": first["method"],
            "rank": first["rank"] if first["method"] != "full" else None,
            "chosen": first["chosen"],
            "seeds": seeds_in(runs),
            **share.cells("intruders_per_100_vectors", "low", "high"),
            "affected_matrices": runs["affected_matrices"].mean(),
            "matrices": runs["matrices"].mean(),
            "energy_share": runs["intruder_energy_share"].mean(),
            "accuracy": runs["accuracy"].mean(),
        }


def _over_epsilon(runs: pd.DataFrame, vectors: pd.DataFrame) -> pd.DataFrame:
    """Count intruders per 100 vectors at other epsilons: at least and at most, by the cosines' proved bounds."""
    rows = []
    for setting, inside in per_setting(vectors.merge(runs[_ALIKE], on="run_id")):
        for epsilon in EPSILONS:
            least, most = 100 * (inside[["max_cosine_upper", "max_cosine_lower"]] < epsilon).mean()
            rows.append(setting | {"epsilon": epsilon, "at_least_per_100": least, "at_most_per_100": most})
    return pd.DataFrame(rows)


def _over_k(runs: pd.DataFrame, vectors: pd.DataFrame) -> pd.DataFrame:
    """Count the intruders per matrix among the top-k vectors, at the audit's own epsilon."""
    rows = []
    for setting, inside in per_setting(vectors.merge(runs[_ALIKE], on="run_id")):
        matrices = len(inside[["run_id", "name"]].drop_duplicates())
        at_index = inside["index"][inside["intruder"]].value_counts()
        for k in range(1, int(inside["index"].max()) + 2):
            below = int(at_index[at_index.index < k].sum())
            rows.append(setting | {"k": k, "intruders_per_matrix": below / matrices})
    return pd.DataFrame(rows)


def _examples(runs: pd.DataFrame, matrices: pd.DataFrame) -> pd.DataFrame:
    """Pick by base and task the LoRA matrix with the most intruders, and the same matrix after full fine-tuning.

    The report shows their similarity matrices.
    """
    columns = ["base", "task", "method", "described", "run_id", "name", "intruders"]
    known = matrices.merge(runs[["run_id", "base", "task", "method", "described", "seed"]], on="run_id")
    examples = [known.iloc[:0]]
    for _, group in known.groupby(["base", "task"]):
        lora = group[group["method"] == "lora"].sort_values(
            ["intruders", "run_id", "name"], ascending=[False, True, True]
        )
        full = group[(group["method"] == "full") & group["name"].isin(lora["name"].head(1))]
        full = full.assign(is_other_seed=~full["seed"].isin(lora["seed"].head(1)))
        full = full.sort_values(["is_other_seed", "run_id"])
        examples += [lora.head(1), full.head(1)] if len(lora) else []
    picked = pd.concat(examples)[columns].reset_index(drop=True)
    return picked.rename(columns={"described": "setting", "name": "matrix"})


_PER_100 = Axis("intruders_per_100_vectors", "intruders per 100 vectors", from_zero=True)


def charts(finding: Finding, palette: Palette) -> Iterator[Chart]:
    """Draw the intruders by setting, with intervals over seeds; then over epsilon and over k."""
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
            caption="Mean over seeds with its 95 % interval, where there are several.",
        )
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
    for part in parts(finding.tables.get("Intruders over k")):
        yield Chart(
            f"structure-over-k{part.slug}",
            part.titled("Intruders over k"),
            Axis("k", "k, leading vectors examined", marks=sorted(set(values(part.rows["k"])))),
            Axis("intruders_per_matrix", "intruders per matrix", from_zero=True),
            in_order(lines(part.rows, palette, "k", "intruders_per_matrix")),
        )
