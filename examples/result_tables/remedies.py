"""What remedies gain at equal task loss, and at which accuracy."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from intruders.experiments.yardstick import loss_at_task_loss
from intruders.measures.intervals import mean_interval
from intruders.studies.results import load_results
from intruders_research.claims import remedies, remedies_at_equal_task_loss, remedies_while_training
from intruders_research.claims.every_claim import analyse_all

from .published_data import RESULTS, read_table
from .words import markdown, with_ends

ALLOWED = (
    0.01,
    0.02,
)  # nats per token above the task loss of the tuned model; 0.02 is what `remedies` allows
REMEDIES = (
    "replay of WikiText-2",
    "doses learned afterwards",
    "a third of the learning rate",
    "all intruders scaled down",
)


def study_gains(study: str) -> Iterator[tuple[str, str, dict[str, Any], str]]:
    """Yield what was trained, the remedy, its gain over a share of the plain update, and its verdict, if it decides."""
    [finding] = analyse_all(load_results(RESULTS / "data" / study), [remedies.CLAIM.name])
    decided = {(answer.where, answer.what): answer.decision for answer in finding.answers}
    titles = [remedies_while_training.TABLE, remedies_at_equal_task_loss.TABLE]
    gains = pd.concat([finding.tables[title] for title in titles if title in finding.tables])
    for gain in gains.to_dict("records"):
        where = f"{gain['base']} on {gain['task']}, {gain['setting']}"
        verdict = decided.get((where, remedies_at_equal_task_loss.effect_of(gain["remedy"])))
        yield _setting_in_words(gain["setting"]), _remedy_in_words(gain["remedy"]), gain, verdict or ""


def accuracies(study: str) -> dict[tuple[str, str], str]:
    """Say the mean accuracy of the plain models and with a remedy, or of their chosen share, by what was trained."""
    runs = read_table(study, "runs").set_index("run_id")
    points = read_table(study, "remedies")
    points = points[(points["share"] == "report") & points["control"].isna()].set_index("run_id")
    is_share, is_chosen = points["remedy"] == "interpolate", points["chosen"].astype(bool)
    tuned = points[is_share & (points["strength"] == 1) & ~is_chosen]
    shares = points[is_share & is_chosen]
    dosed = points[(points["remedy"] == "doses") & is_chosen]
    said = {}
    for method, rank in {(row.method, row.rank) for row in runs.itertuples() if row.method != "full"} | {
        ("full", 0)
    }:
        own = runs[(runs["method"] == method) & ((method == "full") | (runs["rank"] == rank))]
        highest, trained = own["lr"].max(), f"rank {rank:g}" if rank else "in full"
        means = {
            name: tuned.loc[tuned.index.intersection(own.index[chosen]), "accuracy"].mean()
            for name, chosen in (
                ("", (own["lr"] == highest) & own["replay"].isna()),
                (REMEDIES[0], own["replay"].notna()),
                (REMEDIES[2], (own["lr"] < highest) & own["replay"].isna()),
            )
        }
        means[REMEDIES[1]] = dosed.loc[dosed.index.intersection(own.index), "accuracy"].mean()
        plain = means.pop("")
        of_plain = own.index[(own["lr"] == highest) & own["replay"].isna()]
        said[trained, "interpolate"] = (
            f"{shares.loc[shares.index.intersection(of_plain), 'accuracy'].mean():.2f}"
        )
        said |= {(trained, name): f"{plain:.2f} to {mean:.2f}" for name, mean in means.items()}
    return said


def gains_at_allowances(*studies: str) -> list[str]:
    """What doses gain where the share may cost more task loss: none, or 0.01 or 0.02 above the tuned model's."""
    rows = []
    for study in studies:
        runs = read_table(study, "runs").set_index("run_id")
        points = read_table(study, "remedies")
        points = points[(points["share"] == "report") & points["control"].isna()]
        is_chosen = points["chosen"].astype(bool)
        dosed = points[(points["remedy"] == "doses") & is_chosen]
        curves = (
            points[(points["remedy"] == "interpolate") & ~is_chosen].sort_values("strength").groupby("run_id")
        )
        gains: dict[str, list[list[float]]] = {}
        for dose in dosed.itertuples():
            curve = curves.get_group(dose.run_id)
            losses, task_losses = (curve[name].to_numpy() for name in ("loss", "task_loss"))
            wanted = np.array([dose.task_loss, *(task_losses[-1] + more for more in ALLOWED)])
            run = runs.loc[dose.run_id]
            trained = "in full" if run["method"] == "full" else f"rank {run['rank']:g}"
            shares = loss_at_task_loss(losses[None], task_losses[None], wanted)
            gains.setdefault(trained, []).append(list(shares - dose.loss))
        for trained in sorted(gains, key=lambda name: (name == "in full", name)):
            means = [mean_interval(values) for values in zip(*gains[trained], strict=True)]
            rows.append(
                [trained, *(with_ends((mean.estimate, mean.low, mean.high)) for mean in means), f"`{study}`"]
            )
    allowed = [f"tuned model's + {more}" for more in ALLOWED]
    return markdown(["trained", "share at the task loss of the doses", *allowed, "study"], rows)


def _setting_in_words(setting: str) -> str:
    """The rank of a setting such as ``lora r=8 alpha=16 lr=0.001``, or that all weights were trained."""
    return next((f"rank {word[2:]}" for word in setting.split() if word.startswith("r=")), "in full")


def _remedy_in_words(remedy: str) -> str:
    starts = {"replay": 0, "doses": 1, "a learning rate": 2, "intruders": 3}
    return REMEDIES[next(number for start, number in starts.items() if remedy.startswith(start))]
