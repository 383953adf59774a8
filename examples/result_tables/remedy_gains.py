"""The tables of what remedies gain at equal task loss."""

from __future__ import annotations

import math

import pandas as pd

from intruders.studies.claims import remedies, remedies_at_equal_task_loss, remedies_while_training
from intruders.studies.claims.every_claim import analyse_all
from intruders.studies.tables.results import load_results

from .published_data import RESULTS
from .words import markdown, with_ends

ENDS = ("", "_low", "_high")
REMEDIES = (
    "replay of WikiText-2",
    "doses learned afterwards",
    "a third of the learning rate",
    "all intruders scaled down",
)


def remedy_gains(study: str) -> list[str]:
    """What each remedy gains over a share of the plain update, at equal task loss: those that decide come first."""
    [finding] = analyse_all(load_results(RESULTS / "data" / study), [remedies.CLAIM.name])
    decided = {(answer.where, answer.what): answer.decision for answer in finding.answers}
    titles = [remedies_while_training.TABLE, remedies_at_equal_task_loss.TABLE]
    gains = pd.concat([finding.tables[title] for title in titles if title in finding.tables])
    rows = []
    for gain in gains.to_dict("records"):
        where = f"{gain['base']} on {gain['task']}, {gain['setting']}"
        verdict = decided.get((where, remedies_at_equal_task_loss.effect_of(gain["remedy"])))
        share = [gain.get(f"gain_of_share{end}", math.nan) for end in ENDS]
        rows.append(
            [
                _setting_in_words(gain["setting"]),
                _remedy_in_words(gain["remedy"]),
                with_ends([gain[f"gain{end}"] for end in ENDS]),
                f"*{verdict}*" if verdict else "reported",
                "" if math.isnan(share[0]) else with_ends(share),
            ]
        )
    rows.sort(key=lambda row: (row[3] == "reported", REMEDIES.index(row[1])))
    return markdown(
        [
            "trained",
            "remedy",
            "gain, nats per token (95 % CI over seeds)",
            "verdict",
            "gain of a chosen share of it",
        ],
        rows,
    )


def _setting_in_words(setting: str) -> str:
    """The rank of a setting such as ``lora r=8 alpha=16 lr=0.001``, or that all weights were trained."""
    return next((f"rank {word[2:]}" for word in setting.split() if word.startswith("r=")), "in full")


def _remedy_in_words(remedy: str) -> str:
    starts = {"replay": 0, "doses": 1, "a learning rate": 2, "intruders": 3}
    return REMEDIES[next(number for start, number in starts.items() if remedy.startswith(start))]
