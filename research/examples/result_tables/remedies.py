"""The tables of remedies: what the runs forgot with and without them, and what they gain at equal task loss."""

from __future__ import annotations

import math

import pandas as pd

from intruders.mitigation.remedies.remedy_table import INTRUDERS
from intruders.studies.results import load_results
from intruders_research.claims import (
    intervention,
    remedies,
    remedies_at_equal_task_loss,
    remedies_while_training,
)
from intruders_research.claims.every_claim import analyse_all

from .published_data import RESULTS, is_setting, read_table, settings_in
from .words import markdown, scientific, with_ends

ENDS = ("", "_low", "_high")
REMEDIES = (
    "replay of WikiText-2",
    "doses learned afterwards",
    "a third of the learning rate",
    "all intruders scaled down",
)


def remedied_runs(study: str) -> list[str]:
    """What every training forgot, and what its doses left, on the documents and examples that are reported."""
    runs = read_table(study, "runs")
    runs = runs[runs["status"] == "finished"]
    points = read_table(study, "remedies")
    points = points[(points["share"] == "report") & points["control"].isna()].set_index("run_id")
    is_curve = (points["remedy"] == "interpolate") & ~points["chosen"].astype(bool)
    base, tuned = (points[is_curve & (points["strength"] == share)] for share in (0, 1))
    dosed = points[(points["remedy"] == "doses") & points["chosen"].astype(bool)]
    rows = []
    for method, rank, rate in settings_in(runs):
        of_rate = runs[is_setting(runs, method, rank, rate)].set_index("run_id")
        for is_replayed, own in of_rate.groupby(of_rate["replay"].notna()):
            rows.append(
                [
                    f"rank {rank:g}" if rank else "in full",
                    scientific(rate, 1).replace(".0", ""),
                    "a quarter" if is_replayed else "",
                    *_forgotten_and_accuracy(tuned, base, own.index),
                    f"{own['trained_steps'].mean():.0f}",
                    f"{own['intruders'].mean():.0f}",
                    f"{own['update_frobenius'].mean():.1f}",
                    *_forgotten_and_accuracy(dosed, base, own.index),
                ]
            )
    return markdown(
        [
            "trained",
            "rate",
            "replay",
            "forgotten",
            "accuracy",
            "steps",
            "intruders",
            "update norm",
            "forgotten with doses",
            "accuracy with doses",
        ],
        rows,
    )


def remedy_gains(study: str) -> list[str]:
    """What each remedy gains over a share of the plain update, at equal task loss: those that decide come first."""
    [finding] = analyse_all(load_results(RESULTS / "data" / study), [remedies.CLAIM.name])
    decided = {(answer.where, answer.what): answer.decision for answer in finding.answers}
    titles = [remedies_while_training.TABLE, remedies_at_equal_task_loss.TABLE]
    gains = pd.concat([finding.tables[title] for title in titles if title in finding.tables])
    seeds = read_table(study, "runs")["seed"].nunique()
    rows = []
    for gain in gains.to_dict("records"):
        where = f"{gain['base']} on {gain['task']}, {gain['setting']}"
        verdict = decided.get((where, remedies_at_equal_task_loss.effect_of(gain["remedy"])))
        share = [gain.get(f"gain_of_share{end}", math.nan) for end in ENDS]
        rows.append(
            [
                _setting_in_words(gain["setting"]),
                _remedy_in_words(gain["remedy"]),
                _gain_in_words(gain, seeds),
                f"*{verdict}*" if verdict else "reported",
                "" if math.isnan(share[0]) else with_ends(share),
            ]
        )
    rows.sort(key=lambda row: (row[3] == "reported", REMEDIES.index(row[1])))
    return markdown(
        [
            "trained",
            "remedy",
            "gain, nats per token (95 % CI over seeds; reported rows: of all of them together)",
            "verdict",
            "gain of a chosen share of it",
        ],
        rows,
    )


def scaled_intruders(study: str) -> list[str]:
    """What the loss, the accuracy and the gain become where the strongest intruder of every matrix is scaled down."""
    [finding] = analyse_all(load_results(RESULTS / "data" / study), [intervention.CLAIM.name])
    by_scale = finding.tables[intervention.TABLE]
    scaled = by_scale[(by_scale["control"] == INTRUDERS) & (by_scale["scale"] < 1)]
    rows = []
    for (setting, scale), measured in scaled.groupby(["setting", "scale"]):
        of = {row["measure"]: row for row in measured.to_dict("records")}
        gain, change = ([of[name][end] for end in ("change", "low", "high")] for name in ("gain", "loss"))
        rows.append(
            [
                _setting_in_words(setting.partition(",")[0]),
                f"{scale:g}",
                f"{of['accuracy']['value']:.2f}",
                with_ends(change),
                with_ends(gain),
                str(of["gain"]["seeds"]),
            ]
        )
    return markdown(
        [
            "trained",
            "scale of the strongest intruder",
            "accuracy",
            "loss on text, change in nats per token (95 % CI over seeds)",
            "gain over a share of the update",
            "seeds",
        ],
        rows,
    )


def _forgotten_and_accuracy(
    points: pd.DataFrame, base: pd.DataFrame, run_ids: pd.Index[str]
) -> tuple[str, str]:
    """The mean rise of the loss over the base with the lowest and highest seed, and the mean accuracy."""
    of_runs = points[points.index.isin(run_ids)]
    if of_runs.empty:
        return "", ""
    rise = of_runs["loss"] - base.loc[of_runs.index, "loss"]
    return f"{rise.mean():.2f} [{rise.min():.2f}, {rise.max():.2f}]", f"{of_runs['accuracy'].mean():.2f}"


def _gain_in_words(gain: dict[str, object], seeds: int) -> str:
    """A gain with its interval, and of how many seeds if not of all; or why no run has one."""
    if not gain["seeds"]:
        return f"not measured: {str(gain['reason']).partition(' at ')[0]}"
    words = with_ends([float(str(gain[f"gain{end}"])) for end in ENDS])
    if gain["seeds"] == 1 < seeds:
        return f"{words} (one seed, CI over documents)"
    return words if gain["seeds"] == seeds else f"{words} ({gain['seeds']} of {seeds} seeds)"


def _setting_in_words(setting: str) -> str:
    """The rank of a setting such as ``lora r=8 alpha=16 lr=0.001``, or that all weights were trained."""
    return next((f"rank {word[2:]}" for word in setting.split() if word.startswith("r=")), "in full")


def _remedy_in_words(remedy: str) -> str:
    starts = {"replay": 0, "doses": 1, "a learning rate": 2, "intruders": 3}
    return REMEDIES[next(number for start, number in starts.items() if remedy.startswith(start))]
