"""Every remedy in every setting in one table and one chart: its gain over a share of the update, and its accuracy.

Every draw is counted once: `replay-or-heal` has the draws of `which-remedy-again` at ranks 1 and 8, which measured
them on more documents, and is left out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from intruders.charts.drawing import styled
from intruders_research.effects.forest_plot import Theme

from .published_data import RESULTS
from .remedies import REMEDIES, accuracies, study_gains
from .words import markdown, with_ends

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STUDY = "which-remedy-again"
SHARE = "interpolate"
DOSES, REPLAY, LOWER, INTRUDERS = "`heal`, doses", REMEDIES[0], REMEDIES[2], REMEDIES[3]
NAMES = dict(zip(REMEDIES, (REPLAY, DOSES, LOWER, INTRUDERS), strict=True))
OF_MODELS = {"wp": "arithmetic", "sst2": "SST-2", "r1": "rank 1", "r8": "rank 8", "full": "in full"}
# Printed when the models were healed, with that of interpolation; healing.csv has losses alone.
ACCURACIES = {
    "wp-r1": ("0.95 to 0.92", "0.92"),
    "wp-r8": ("0.98 to 0.91", "0.91"),
    "wp-full": ("0.96 to 0.89", "0.95"),
    "sst2-r1": ("0.80 to 0.79", "0.79"),
    "sst2-r8": ("0.81 to 0.83", "0.83"),
    "sst2-full": ("0.85 to 0.84", "0.85"),
}


@dataclass(frozen=True)
class Row:
    """One remedy in one setting."""

    remedy: str
    trained: str
    text: str
    gain: tuple[
        float, float, float
    ]  # nats per token, with the ends of an interval, or the lowest and highest seed
    accuracy: str
    of_share: str  # accuracy of a share of the same updates
    seeds: str
    source: str
    verdict: str = ""

    @property
    def words(self) -> str:
        return with_ends(self.gain) + (f", *{self.verdict}*" if self.verdict else "")


def every_remedy() -> list[str]:
    """The table."""
    header = [
        "remedy",
        "trained",
        "text",
        "gain, nats per token",
        "accuracy, before and after",
        "of a share",
        "seeds",
        "source",
    ]
    return markdown(
        header,
        [
            [row.remedy, row.trained, row.text, row.words, row.accuracy, row.of_share, row.seeds, row.source]
            for row in rows()
        ],
    )


def rows() -> list[Row]:
    """Every row, remedy by remedy."""
    every = [*_of_study(), *_of_healed_models(), *_of_published_remedies()]
    order = [DOSES, LOWER, REPLAY, "`fapm`", "`trim`", INTRUDERS]
    sources = list(dict.fromkeys(row.source for row in every))
    return sorted(every, key=lambda row: (order.index(row.remedy), sources.index(row.source)))


def _of_study() -> Iterator[Row]:
    said = accuracies(STUDY)
    for trained, remedy, gain, verdict in study_gains(STUDY):
        if not gain["seeds"]:
            continue  # it has no intruders
        yield Row(
            NAMES[remedy],
            f"arithmetic, {trained}",
            "pydoc",
            (float(gain["gain"]), float(gain["gain_low"]), float(gain["gain_high"])),
            said.get((trained, remedy), ""),
            said[trained, SHARE],
            "1" if gain["seeds"] == 1 else "4",
            f"[again](data/{STUDY}/study.yaml)",
            verdict,
        )


def _of_healed_models() -> Iterator[Row]:
    """Of the second text, which chose nothing."""
    table = pd.read_csv(RESULTS / "data" / "healing.csv")
    for name, models in _by_setting(table[table["text"] == "wikitext-2"]):
        yield Row(
            DOSES,
            _words(name),
            "wikitext-2",
            _spread(models["gain"]),
            *ACCURACIES[name],
            str(len(models)),
            "[healing](data/healing.csv)",
        )


def _of_published_remedies() -> Iterator[Row]:
    table = pd.read_csv(RESULTS / "data" / "healing-remedies.csv")
    of_share = dict(_by_setting(table[table["remedy"] == SHARE]))
    for remedy, of_remedy in table[table["remedy"] != SHARE].groupby("remedy", sort=False):
        for name, models in _by_setting(of_remedy):
            yield Row(
                f"`{remedy}`",
                _words(name),
                "both",
                _spread(models["gain"]),
                f"{models['tuned_accuracy'].mean():.2f} to {models['accuracy'].mean():.2f}",
                f"{of_share[name]['accuracy'].mean():.2f}",
                str(len(models)),
                "[remedies](data/healing-remedies.csv)",
            )


def _by_setting(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    settings = table["model"].str.replace(r"-s\d+$", "", regex=True)
    found = dict(list(table.groupby(settings)))
    yield from ((name, found[name]) for name in ACCURACIES)


def _words(name: str) -> str:
    return ", ".join(OF_MODELS[part] for part in name.split("-"))


def _spread(values: "pd.Series[float]") -> tuple[float, float, float]:
    return float(values.mean()), float(values.min()), float(values.max())


COLORS = {
    "rank 1": ("#0072B2", "#56B4E9", "o"),
    "rank 8": ("#D55E00", "#FF8A3D", "s"),
    "in full": ("#007a5a", "#3ddba8", "D"),
}
ENDS = (-0.75, 0.45)  # wider intervals are cut


def remedy_chart(theme: Theme) -> "Figure":
    """Draw the gains, a line for each row of the table."""
    drawn = rows()
    with styled():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8.2, 0.2 * len(drawn) + 0.9))
        axes = figure.add_axes((0.42, 0.09, 0.56, 0.89))
        _draw(axes, drawn, theme)
    return figure


def _draw(axes: "Axes", drawn: list[Row], theme: Theme) -> None:
    is_dark = theme.name == "dark"
    labels = axes.get_yaxis_transform()
    for at, row in enumerate(drawn):
        light, dark, mark = COLORS[row.trained.split(", ")[1]]
        color = dark if is_dark else light
        gain, low, high = row.gain
        axes.plot([max(low, ENDS[0]), min(high, ENDS[1])], [at, at], color=color, linewidth=1.4)
        axes.plot([gain], [at], marker=mark, markersize=4.5, color=color, linestyle="none")
        said: dict[str, Any] = {"transform": labels, "va": "center", "fontsize": 7, "color": theme.text}
        if not at or drawn[at - 1].remedy != row.remedy:
            axes.text(-0.74, at, row.remedy.replace("`", ""), weight="bold", **said)
        axes.text(-0.36, at, f"{row.trained}; {row.text}", **said)
    axes.axvline(0, color=theme.faint, linewidth=0.8, zorder=0)
    axes.set_xlim(*ENDS)
    axes.set_ylim(len(drawn) - 0.4, -0.6)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_color(theme.faint)
    axes.patch.set_alpha(0)
    axes.tick_params(colors=theme.text, labelsize=7, length=2)
    axes.set_xlabel(
        "gain over a share of the update at the same task loss (nats per token); right is better",
        color=theme.text,
        fontsize=7.5,
    )
