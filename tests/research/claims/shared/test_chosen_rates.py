"""Comparisons at each method's fastest and mildest rate, where which is which is planted."""

from dataclasses import replace
from typing import Any

import pytest

from intruders.studies.results import Results
from intruders_research.claims import forgetting, rank, structure
from tests.studies.planted import noise, run, study

# Steps to the score and loss by rate: the fast rate forgets most, the slow one does not reach the score in one seed.
RATES = {1e-4: (90, 0.1), 1e-3: (50, 0.2), 1e-2: (20, 0.5)}


def rows_of(method: str, method_rank: int | None, counts: dict[float, int]) -> list[dict[str, Any]]:
    """Three rates with planted counts of intruders, three seeds."""
    rows = []
    for seed in range(3):
        for rate, (steps, loss) in RATES.items():
            rows.append(
                run(
                    f"{method}-{method_rank}-{rate}-{seed}",
                    method=method,
                    rank=method_rank,
                    alpha="2r" if method_rank else None,
                    lr=rate,
                    seed=seed,
                    trained_steps=steps + seed,
                    intruders=counts[rate] + seed,
                    loss_change=loss + noise(method, method_rank, rate, seed, size=0.01),
                    stopped_by="steps" if rate == 1e-4 and seed == 2 else "match",
                )
            )
    return rows


def rates(select: tuple[str, ...], **tables: Any) -> Results:
    rows = [
        *rows_of("lora", 1, {1e-4: 50, 1e-3: 2, 1e-2: 40}),
        *rows_of("lora", 4, {1e-4: 50, 1e-3: 2, 1e-2: 30}),
        *rows_of("lora", 16, {1e-4: 50, 1e-3: 2, 1e-2: 20}),
        *rows_of("full", None, {1e-4: 50, 1e-3: 10, 1e-2: 0}),
    ]
    return replace(study(runs=rows, **tables), select=select)


def test_structure_is_answered_at_each_methods_fastest_and_mildest_rate() -> None:
    finding = structure.analyse(rates(("fastest", "mildest")))
    answers = {answer.where: answer for answer in finding.answers}
    fastest = answers["tiny on words, each method at its fastest rate"]
    mildest = answers["tiny on words, each method at its mildest rate"]
    # 1e-2 takes the fewest steps: (40 + 30 + 20) / 3 - 0 intruders of 200 vectors.
    assert (fastest.estimate, fastest.decision) == (pytest.approx(15.0), "supported")
    # 1e-4 forgets least, and did not reach the score in one seed: 1e-3 is the mildest that did in all.
    assert (mildest.estimate, mildest.decision) == (pytest.approx(-4.0), "contradicted")
    assert finding.decision == "contradicted"
    table = finding.tables["Intruders by setting"]
    assert len(table) == 12, "the table and the figure have all points"
    chosen = table.groupby("chosen")["setting"].apply(set)
    assert all("lr=0.01" in setting for setting in chosen["fastest"])
    assert all("lr=0.001" in setting for setting in chosen["mildest"])
    assert sum("(in-sample)" in note for note in finding.notes) == 2
    assert any("least pre-training loss change" in note for note in finding.notes)


def test_without_a_loss_the_mildest_rate_is_that_of_the_smallest_update() -> None:
    results = rates(("mildest",))
    runs = results.runs.assign(loss_change=None, update_frobenius=results.runs["lr"] * 100)
    finding = structure.analyse(replace(results, runs=runs))
    assert any("update norm, since no loss was measured" in note for note in finding.notes)
    assert finding.answers[0].estimate == pytest.approx(-4.0)


def test_ranks_are_a_series_of_the_rates_that_were_chosen() -> None:
    finding = rank.analyse(rates(("fastest",)))
    count = next(answer for answer in finding.answers if "intruders" in answer.what)
    # 40, 30, 20 intruders of 200 at ranks 1, 4 and 16: 5 per 100 less for every two doublings.
    assert count.estimate == pytest.approx(-2.5)
    assert "fastest rate, alpha = 2r, a rate for each rank" in count.where


def test_forgetting_has_a_correlation_for_each_selection_and_corpus() -> None:
    results = rates(("fastest", "mildest"))
    losses = [
        {"run_id": row["run_id"], "corpus": corpus, "loss_measure": "cross-entropy", "base_loss": base}
        | {
            "loss_change": sign * row["loss_change"],
            "loss": base,
            "loss_change_low": 0.0,
            "loss_change_high": 1.0,
        }
        for row in results.runs.to_dict("records")
        for corpus, base, sign in (("pydoc", 2.9, 1), ("wikitext-2", 3.5, -1))
    ]
    finding = forgetting.analyse(rates(("fastest", "mildest"), losses=losses))
    where = [answer.where for answer in finding.answers]
    assert where == [
        f"tiny on words, each method at its {name} rate, {corpus}"
        for corpus in ("pydoc", "wikitext-2")
        for name in ("fastest", "mildest")
    ]
    assert set(finding.tables["Runs"]["corpus"]) == {"pydoc", "wikitext-2"}
