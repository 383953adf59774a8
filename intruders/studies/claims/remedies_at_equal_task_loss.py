"""Remedies compared on every run: what each gains over interpolation at equal task loss, mean over seeds.

Nearly every remedy makes the update smaller, which alone saves forgetting. Whether one is worth more than a smaller
update shows at equal task loss alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import pandas as pd

from ...charts.chart import Axis, Chart, Rule
from ...evaluation.intervals import Interval
from ..tables.results import Results
from .claim import NOT_RUN, Effect, Finding
from .shared.comparable_runs import LOSS_ALIKE, Stratum, finished, strata
from .shared.pictures import Palette, listed, parts
from .shared.statistics import LEVEL, mean_interval
from .shared.words import answer, effect, said, seeds_said

TABLE = "Gain at equal task loss"
KIND = "compared after training"
_CURVE = "interpolate"
_MOST_SETTINGS = 4  # of one base and task, in charts; the table has all
_NOTE = (
    "Gains at equal task loss are listed with the claim and do not decide it. Their intervals apply to all remedies on "
    "one setting together (Bonferroni)."
)
_TITLE = "loss of interpolation at the same task loss minus the remedy's, nats/token"


@dataclass(frozen=True)
class Gain:
    """One remedy on all seeds of one setting."""

    remedy: str
    chosen: pd.DataFrame  # one row per run, at the strength that was chosen for it
    interval: Interval  # over seeds; of one seed over documents and examples
    seeds: int
    reason: str = ""  # why it was not measured, where no run has it

    @property
    def verdict(self) -> str:
        """The words of a claim. Documents and examples of one seed say nothing of other seeds."""
        if self.seeds == 0:
            return NOT_RUN
        over_seeds = self.interval if self.seeds > 1 else mean_interval([self.interval.estimate])
        return answer("", "", over_seeds, seeds=self.seeds).decision


@dataclass
class Gains:
    """The gains of all settings of a study."""

    rows: list[dict[str, object]] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    verdicts: list[str] = field(default_factory=list)
    runs: int = 0
    seeds: int = 0

    def with_finding(self, finding: Finding) -> Finding:
        """The finding of the claim with the gains, which do not change its decision."""
        if not self.rows:
            return finding
        return replace(
            finding,
            verdict="; ".join([finding.verdict, *self.verdicts]),
            effects=[*finding.effects, *self.effects],
            seeds=finding.seeds or self.seeds,
            runs=finding.runs or self.runs,
            tables=finding.tables | {TABLE: pd.DataFrame(self.rows)},
            notes=[*finding.notes, _NOTE],
        )


def gains(results: Results, notes: list[str]) -> Gains:
    """What every compared remedy gains, by base, task and setting; intervals are for all remedies of one together."""
    found = Gains()
    points = results.remedies
    runs = finished(results.runs)
    for stratum in strata(runs[runs["run_id"].isin(points["run_id"])], LOSS_ALIKE, notes):
        for _, group in stratum.runs.groupby("setting", sort=False):
            of_setting = points.merge(group[["run_id", "seed"]], on="run_id")
            described = str(group["described"].iloc[0])
            compared = sorted(_of_setting(of_setting), key=_best_first)
            measured = [one for one in compared if one.seeds]
            forgotten = _forgotten(of_setting)
            found.rows += [_row(stratum, described, forgotten, one) for one in compared]
            if not measured:
                continue
            found.runs += of_setting["run_id"].nunique()
            found.seeds = max(found.seeds, *(one.seeds for one in measured))
            where = f"{stratum.label}, {described}"
            found.effects += [effect(_named(where, one), one.interval) for one in measured]
            found.verdicts.append(_said(where, measured))
    return found


def candidates(baseline: pd.DataFrame, results: Results) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Every remedy on the runs of a setting, by seed: their loss change and accuracy, as the remedy moves them."""
    reported = _reported(results.remedies)
    known = reported.merge(
        baseline[["run_id", "seed", "loss_change", "accuracy"]], on="run_id", suffixes=("", "_run")
    )
    is_tuned = (known["remedy"] == _CURVE) & ~known["chosen"] & (known["strength"] == 1)
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
        name = f"{remedy} after training, its strength chosen for each run"
        yield KIND, name, table.dropna(subset=["seed"]).groupby("seed").mean()


def _reported(points: pd.DataFrame) -> pd.DataFrame:
    """The points on the documents that are reported, without controls."""
    return points[(points["share"] == "report") & points["control"].isna()]


def _forgotten(points: pd.DataFrame) -> float:
    """By how much the tuned models' loss is above the base's on the reported documents, mean over runs."""
    reported = _reported(points)
    curve = reported[(reported["remedy"] == _CURVE) & ~reported["chosen"]]
    at = [curve.loc[curve["strength"] == alpha, "loss"].mean() for alpha in (0.0, 1.0)]
    return float(at[1] - at[0])


def _of_setting(points: pd.DataFrame) -> Iterator[Gain]:
    chosen = points[points["chosen"] & (points["remedy"] != _CURVE)]
    level = 1 - (1 - LEVEL) / max(1, chosen["remedy"].nunique())
    for remedy in dict.fromkeys(points.loc[points["remedy"] != _CURVE, "remedy"]):
        of_remedy = chosen[chosen["remedy"] == remedy]
        by_seed = of_remedy["gain"].groupby(of_remedy["seed"]).mean().dropna()
        reasons = points.loc[(points["remedy"] == remedy) & points["reason"].notna(), "reason"]
        yield Gain(
            str(remedy),
            of_remedy,
            mean_interval(by_seed, level=level) if len(by_seed) != 1 else _over_documents(of_remedy),
            len(by_seed),
            str(reasons.iloc[0]) if by_seed.empty and len(reasons) else "",
        )


def _over_documents(of_remedy: pd.DataFrame) -> Interval:
    """The mean of the runs' own intervals, which apply to all remedies of a comparison together."""
    estimate, low, high = (float(of_remedy[f"gain{end}"].mean()) for end in ("", "_low", "_high"))
    is_known = math.isfinite(low) and math.isfinite(high)
    return Interval(estimate, low if is_known else -math.inf, high if is_known else math.inf)


def _over(one: Gain) -> str:
    return "interval over documents and examples" if one.seeds == 1 else ""


def _best_first(one: Gain) -> float:
    return math.inf if math.isnan(one.interval.estimate) else -one.interval.estimate


def _named(where: str, one: Gain) -> str:
    over = f" ({_over(one)})" if _over(one) else ""
    return f"{where}: gain of {one.remedy} over interpolation at equal task loss, nats per token{over}"


def _said(where: str, measured: Sequence[Gain]) -> str:
    clear = sum(one.verdict == "supported" for one in measured)
    best = measured[0]
    return (
        f"{where}: at equal task loss {clear} of {len(measured)} compared remedies clearly gain over scaling the "
        f"complete update; {best.remedy} has the largest gain, {said(best.interval, 3)} nats per token"
        f" ({', '.join(filter(None, (_over(best), seeds_said(best.seeds))))})"
    )


def _row(stratum: Stratum, described: str, forgotten: float, one: Gain) -> dict[str, object]:
    strengths = sorted(set(one.chosen["strength"].dropna()))
    return {
        "base": stratum.base,
        "task": stratum.task,
        "setting": described,
        "forgotten": forgotten,
        "remedy": one.remedy,
        "strengths": ", ".join(f"{strength:g}" for strength in strengths),
        "gain": one.interval.estimate,
        "gain_low": one.interval.low,
        "gain_high": one.interval.high,
        "interval_over": "documents and examples" if one.seeds == 1 else "seeds",
        "healed": float(one.chosen["healed"].mean()),
        "kept": float(one.chosen["kept"].mean()),
        "over_allowance": int(one.chosen["over_allowance"].sum()),
        "seeds": one.seeds,
        "verdict": one.verdict,
        "reason": one.reason,
    }


def charts(finding: Finding) -> list[Chart]:
    """The gains from the largest to the smallest, on each base and task for the settings that forgot most."""
    made = []
    table = finding.tables.get(TABLE)
    chosen = [_forgot_most(part.rows.dropna(subset=["gain"])) for part in parts(table)]
    for part in parts(pd.concat(chosen) if chosen else None, "base", "task", "setting"):
        made.append(
            listed(
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
        )
    return made


def _forgot_most(rows: pd.DataFrame) -> pd.DataFrame:
    forgotten = rows.groupby("setting", sort=False)["forgotten"].first().sort_values(ascending=False)
    return rows[rows["setting"].isin(forgotten.index[:_MOST_SETTINGS])]
