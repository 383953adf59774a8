"""Charts of interventions: the change under scaled intruders and controls, over the scale."""

from __future__ import annotations

import math

import pandas as pd

from intruders.charts.chart import Axis, Chart, Rule

from .shared.claim import Finding
from .shared.pictures import Palette, Part, lines, parts, slug

_NAMES = {
    "intruders": "the intruders",
    "shrink": "control: complete update, same norm",
    "shrink-output": "control: complete update, same output",
    "random": "control: random other vectors",
    "neighbours": "control: neighboring vectors",
    "update": "control: directions of the update",
    "complement": "control: rest of the update, same norm",
    "resized": "the intruders, at the update's own norm",
}

_TITLES = {
    "loss": "Pre-training loss",
    "accuracy": "Task accuracy",
    "gain": "Gain over interpolation at equal task loss",
}

_UNITS = {"loss": "loss change, nats/token", "accuracy": "accuracy change", "gain": "gain, nats/token"}

_MOST_SETTINGS = 4  # of one base and task; the table has all


def charts(finding: Finding, palette: Palette) -> list[Chart]:
    """Draw the change over the scale, one line per control, for the settings that forgot most."""
    own = Palette()  # controls are no settings
    made = []
    table = finding.tables.get("By scale")
    for stratum in parts(table):
        for setting in _forgot_most(stratum.rows):
            of_setting = stratum.rows[stratum.rows["setting"] == setting].sort_values(
                "measure", ascending=False
            )
            for part in parts(of_setting, "measure", "on"):  # loss before accuracy
                made.append(_chart(part, stratum, own))
    return made


def _chart(part: Part, stratum: Part, palette: Palette) -> Chart:
    first = part.rows.iloc[0]
    measure = str(first["measure"])
    whole = float(first["base_value"]) - _tuned_value(part.rows)
    is_loss = measure == "loss" and math.isfinite(whole)
    return Chart(
        f"intervention{stratum.slug}{slug(str(first['setting']))}-{measure}{slug(str(first['on']))}",
        stratum.titled(f"{_TITLES.get(measure, measure)} on {first['on']}, {first['setting']}"),
        Axis("scale", "scale (1: as tuned, 0: removed)"),
        Axis(f"{measure}_change", _UNITS.get(measure, measure)),
        lines(_from_tuned(part.rows), palette, "scale", "change", name="what", low="low", high="high"),
        [Rule("y", 0.0), Rule("y", whole, "as low as the base")] if is_loss else [Rule("y", 0.0)],
        caption="Against the tuned model; intervals over seeds, where there are several.",
    )


def _forgot_most(rows: pd.DataFrame) -> list[str]:
    """Return the settings with the largest rise of the loss over the base, the largest first."""
    losses = rows[rows["measure"] == "loss"]
    risen = (losses["value"] - losses["change"] - losses["base_value"]).groupby(losses["setting"]).max()
    known = list(risen.sort_values(ascending=False).index)
    return (known or list(dict.fromkeys(rows["setting"])))[:_MOST_SETTINGS]


def _tuned_value(rows: pd.DataFrame) -> float:
    """Return the tuned model's measure: at scale 1, or what other rows say that they changed from."""
    return float((rows["value"] - rows["change"]).mean())


def _from_tuned(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of every control with their common point: at scale 1 nothing is changed."""
    named = rows.assign(what=[_NAMES.get(control, control) for control in rows["control"]])
    named = named[named["scale"] != 1]
    start = pd.DataFrame(
        {"what": list(dict.fromkeys(named["what"])), "scale": 1.0, "change": 0.0, "low": 0.0, "high": 0.0}
    )
    order = {name: i for i, name in enumerate(_NAMES.values())}
    whole = pd.concat([named, start], ignore_index=True)
    return whole.sort_values("what", key=lambda names: names.map(order), kind="stable")
