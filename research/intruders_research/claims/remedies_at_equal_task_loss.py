"""Remedies compared on every run: what each gains over interpolation at equal task loss, mean over seeds.

Nearly every remedy makes the update smaller, which alone saves forgetting. Whether one is worth more than a smaller
update shows at equal task loss alone.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from intruders.charts.chart import Axis, Chart, Rule
from intruders.measures.intervals import LEVEL, Interval, mean_interval
from intruders.studies.results import Results

from .shared.claim import NOT_RUN, SUPPORTED, UNDECIDED, Effect, Finding, Where
from .shared.evidence import Evidence
from .shared.pictures import Palette, listed, parts
from .shared.strata import LOSS_ALIKE, Stratum, finished, strata
from .shared.words import said, seeds_said

TABLE = "Gain at equal task loss"
KIND = "compared after training"
CURVE = "interpolate"
_MOST_SETTINGS = 4  # of one base and task, in charts; the table has all
_NOTE = (
    "Gains at equal task loss are listed with the claim and do not decide it. Their intervals apply to "
    "all remedies and settings of the study together (Bonferroni)."
)
_NOTE_BESIDE_PRIMARY = (
    "Of gains at equal task loss, only the one that was named in advance decides. The intervals of the others apply to "
    "all remedies and settings of the study together (Bonferroni)."
)
_TITLE = "loss of interpolation at the same task loss minus the remedy's, nats/token"


@dataclass(frozen=True)
class Gain:
    """One remedy on all seeds of one setting."""

    remedy: str
    chosen: pd.DataFrame  # one row per run, at the strength that was chosen for it
    interval: Interval  # over seeds; of one seed over documents and examples
    reason: str = ""  # why it was not measured, where no run has it

    @property
    def seeds(self) -> int:
        return self.interval.n or 0

    @property
    def over(self) -> str:
        """The sample of the interval if it is not over seeds; else an empty text."""
        return "documents and examples" if self.seeds == 1 else ""

    @property
    def verdict(self) -> str:
        """The decision in a claim's words; one seed's documents and examples say nothing about other seeds."""
        effect = Effect(Where(""), self.remedy, self.interval, 1, self.seeds, self.over, digits=3)
        return effect.decision if self.seeds else NOT_RUN


def add_gains(evidence: Evidence, results: Results) -> tuple[list[dict[str, object]], set[str]]:
    """Add what every compared remedy gains, by base, task and setting.

    They decide nothing unless the study names one in advance. Intervals are for all remedies on all settings together,
    but for that one, which is not picked from several. Returns the rows of :data:`TABLE`, and the runs' ids.
    """
    rows: list[dict[str, object]] = []
    used: set[str] = set()
    of_primary: dict[tuple[Where, str], dict[str, object]] = {}
    points = results.remedies
    runs = finished(results.runs)
    compared_runs = runs[runs["run_id"].isin(points["run_id"])]
    chosen = points[points["chosen"] & (points["remedy"] != CURVE)].merge(compared_runs, on="run_id")
    tests = len(chosen[["base", "task", "setting", "remedy"]].drop_duplicates())
    for stratum in strata(compared_runs, LOSS_ALIKE):
        evidence.notes += stratum.notes
        for _, group in stratum.runs.groupby("setting", sort=False):
            of_setting = points.merge(group[["run_id", "seed"]], on="run_id")
            described = str(group["described"].iloc[0])
            gains = list(_of_setting(of_setting, tests, evidence))
            measured = sorted(
                (each for each in gains if each.seeds), key=lambda each: -each.interval.estimate
            )
            compared = [*measured, *(each for each in gains if not each.seeds)]
            forgotten = _forgotten(of_setting)
            on = stratum.on.narrowed(described)
            of_remedy = {each.remedy: _row(stratum, described, forgotten, each) for each in compared}
            rows += of_remedy.values()
            for each in measured:
                what = effect_of(each.remedy)
                if evidence.is_primary(what):
                    of_primary[on, what] = of_remedy[each.remedy]
                evidence.add_if_named(on, what, each.interval, over=each.over)
            if measured:
                evidence.say(on, _said(measured))
                used |= set(of_setting["run_id"])
    for answer in evidence.answers:
        if (answer.on, answer.what) in of_primary:
            of_primary[answer.on, answer.what]["verdict"] = answer.decision  # among all that decide (Holm)
    if rows:
        evidence.notes.append(_NOTE_BESIDE_PRIMARY if of_primary else _NOTE)
    return rows, used


def candidates(baseline: pd.DataFrame, results: Results) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield every remedy on a setting's runs: loss change and accuracy under it, by seed."""
    known = reported(results.remedies).merge(
        baseline[["run_id", "seed", "loss_change", "accuracy"]], on="run_id", suffixes=("", "_run")
    )
    is_tuned = (known["remedy"] == CURVE) & ~known["chosen"] & (known["strength"] == 1)
    tuned = known[is_tuned].set_index("run_id")
    for remedy, group in known[known["chosen"]].groupby("remedy", sort=False):
        of_run = group.set_index("run_id")
        moved = {name: of_run[name] - tuned[name] for name in ("corpus_loss", "accuracy")}
        table = pd.DataFrame(
            {
                "seed": of_run["seed"],
                "loss_change": of_run["loss_change"] + moved["corpus_loss"],
                "accuracy": of_run["accuracy_run"] + moved["accuracy"],
            }
        )
        yield str(remedy), table.dropna(subset=["seed"]).groupby("seed").mean()


def reported(points: pd.DataFrame) -> pd.DataFrame:
    """Keep the points on the documents that are reported, without controls."""
    return points[(points["share"] == "report") & points["control"].isna()]


def _forgotten(points: pd.DataFrame) -> float:
    """Return the rise of the tuned models' loss over the base on the reported documents, mean over runs."""
    known = reported(points)
    curve = known[(known["remedy"] == CURVE) & ~known["chosen"]]
    at = [curve.loc[curve["strength"] == alpha, "loss"].mean() for alpha in (0.0, 1.0)]
    return float(at[1] - at[0])


def effect_of(remedy: str) -> str:
    """Return the name of the effect that is the gain of a remedy, be it after training or while training."""
    return f"gain of {remedy} over interpolation at equal task loss, nats per token"


def _of_setting(points: pd.DataFrame, tests: int, evidence: Evidence) -> Iterator[Gain]:
    chosen = points[points["chosen"] & (points["remedy"] != CURVE)]
    for remedy in dict.fromkeys(points.loc[points["remedy"] != CURVE, "remedy"]):
        of_remedy = chosen[chosen["remedy"] == remedy]
        # The one that was named in advance is not picked from several.
        is_primary = evidence.is_primary(effect_of(str(remedy)))
        level = LEVEL if is_primary else 1 - (1 - LEVEL) / max(1, tests)
        by_seed = of_remedy["gain"].groupby(of_remedy["seed"]).mean().dropna()
        reasons = points.loc[(points["remedy"] == remedy) & points["reason"].notna(), "reason"]
        yield Gain(
            str(remedy),
            of_remedy,
            mean_interval(by_seed, level=level) if len(by_seed) != 1 else _over_documents(of_remedy),
            str(reasons.iloc[0]) if by_seed.empty and len(reasons) else "",
        )


def _over_documents(of_remedy: pd.DataFrame) -> Interval:
    """Average the runs' own intervals, which apply to all remedies of a comparison together."""
    estimate, low, high = (float(of_remedy[f"gain{end}"].mean()) for end in ("", "_low", "_high"))
    is_known = math.isfinite(low) and math.isfinite(high)
    return Interval(estimate, low if is_known else -math.inf, high if is_known else math.inf, 1)


def _said(measured: Sequence[Gain]) -> str:
    clear = sum(each.verdict == SUPPORTED for each in measured)
    best = measured[0]
    over = f"interval over {best.over}" if best.over else ""
    wide = [
        each.interval.high - each.interval.low
        for each in measured
        if each.verdict == UNDECIDED and each.interval.has_ends
    ]
    undecided = f"; {len(wide)} undecided, their intervals up to {max(wide):.2g} wide" if wide else ""
    return (
        f"at equal task loss {clear} of {len(measured)} compared remedies clearly gain over scaling the "
        f"complete update; {best.remedy} has the largest gain, {said(best.interval, 3)} nats per token "
        f"({', '.join(filter(None, (over, seeds_said(best.seeds))))}){undecided}"
    )


def _row(stratum: Stratum, described: str, forgotten: float, gain: Gain) -> dict[str, object]:
    strengths = sorted(set(gain.chosen["strength"].dropna()))
    return stratum.on.columns | {
        "setting": described,
        "forgotten": forgotten,
        "remedy": gain.remedy,
        "strengths": ", ".join(f"{strength:g}" for strength in strengths),
        **gain.interval.cells("gain"),
        "interval_over": gain.over or "seeds",
        "healed": float(gain.chosen["healed"].mean()),
        "kept": float(gain.chosen["kept"].mean()),
        "over_allowance": int(gain.chosen["over_allowance"].sum()),
        "seeds": gain.seeds,
        "verdict": gain.verdict,
        "reason": gain.reason,
    }


def charts(finding: Finding) -> Iterator[Chart]:
    """Draw the gains from the largest to the smallest, for the settings that forgot most."""
    table = finding.tables.get(TABLE)
    chosen = [_forgot_most(part.rows.dropna(subset=["gain"])) for part in parts(table)]
    for part in parts(pd.concat(chosen) if chosen else None, "base", "task", "setting"):
        yield listed(
            f"remedies-gain{part.slug}",
            part.titled(TABLE),
            part.rows.replace([-math.inf, math.inf], math.nan),
            Palette(),
            Axis("gain", _TITLE),
            by="remedy",
            value="gain",
            low="gain_low",
            high="gain_high",
            rules=[Rule("x", 0.0, "scaling the complete update")],
            caption="A mark is the mean over seeds, its bar the 95 % confidence interval for all remedies "
            "together: over seeds, or over documents and examples with one seed. To the right is better.",
        )


def _forgot_most(rows: pd.DataFrame) -> pd.DataFrame:
    forgotten = rows.groupby("setting", sort=False)["forgotten"].first().sort_values(ascending=False)
    return rows[rows["setting"].isin(forgotten.index[:_MOST_SETTINGS])]
