"""A fleet as text for a terminal, as a page, and the opinions on its adapters.

A thousand rows of the page stay light: each adapter's figures are packed in a few bytes per matrix, and unpacked when
its row is opened.
"""

import base64
import shlex
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import pandas as pd

from ..audits.fleet.fleet_result import FleetAudit
from ..audits.result.forgetting import in_short
from ..charts.chart import for_page
from ..checkpoints.stored.names import module_paths
from ..system.words import duration, number, percent, plural, shorten
from .audit_command import options_of_audit
from .html_page import render_page
from .terminal import Page

ROWS_SHOWN = 20  # adapters, unless verbose
OTHERS_SHOWN = 5  # that were refused, or passed over


def print_fleet(fleet: FleetAudit, page: Page, verbose: bool = False) -> None:
    """Print `fleet`, by predicted nats or intruders, the most first; with `verbose` every adapter."""
    table = with_opinions(fleet.adapters)
    audited = table[table["status"] == "audited"]
    page.say(f"{plural(fleet.intruders, 'intruder dimension')} in {plural(len(audited), 'adapter')} of "
           f"{fleet.base_source}; {len(table) - len(audited):,} refused; {duration(fleet.seconds)}")  # fmt: skip
    has_nats = bool(audited["nats"].notna().any())
    ordered = audited.sort_values(["nats", "intruders", "energy_share"], ascending=False, kind="stable")
    shown = ordered if verbose else ordered.head(ROWS_SHOWN)
    if len(shown):
        page.say("")
        _print_table(shown, page, has_nats)
    if len(shown) < len(ordered):
        less = "; --verbose lists all" if has_nats else " with at most as many intruders"
        page.say(f"and {plural(len(ordered) - len(shown), 'adapter')} more{less}")
    if has_nats:
        page.say(
            f"nats: predicted per token forgotten on {audited['nats_on'].dropna().iloc[0]}, with the 95 % interval; of "
            "nats: their share in matrices with intruders"
        )
    refused = list(fleet.refused.items())
    for source, reason in refused if verbose else refused[:OTHERS_SHOWN]:
        page.say(f"refused: {source}: {reason}")
    if not verbose and len(refused) > OTHERS_SHOWN:
        page.say(f"and {len(refused) - OTHERS_SHOWN:,} refused more; --verbose lists all")
    if fleet.passed_over:
        named = [f"{path} ({what})" for path, what in fleet.passed_over.items()]
        entries = named if verbose else named[:OTHERS_SHOWN]
        more = f" and {len(named) - len(entries):,} more" if len(entries) < len(named) else ""
        page.say(f"passed over {plural(len(named), 'entry', 'entries')}: {', '.join(entries)}{more}")


def _print_table(shown: pd.DataFrame, page: Page, has_nats: bool) -> None:
    """Print the table; predicted nats and their share take the place of three other columns."""

    def ranks(row: Any) -> str:
        least, most = (str(value).replace("<NA>", "-") for value in (row.rank_min, row.rank_max))
        return least if least == most else f"{least}-{most}"

    cells: dict[str, Callable[[Any], str]] = {
        "rank": ranks,
        "nats": lambda row: in_short(row.nats, row.nats_low, row.nats_high),
        "matrices": lambda row: f"{row.matrices:,}",
        "intruders": lambda row: f"{row.intruders:,}",
        "of nats": lambda row: "-" if pd.isna(row.nats) else percent(max(0.0, row.nats_in_affected)),
        "energy": lambda row: percent(row.energy_share),
        "relative": lambda row: percent(row.update_relative_median),
        "unusual": lambda row: number(row.unusual),
    }
    left_out = ("matrices", "energy", "relative") if has_nats else ("nats", "of nats")
    columns = {name: cell for name, cell in cells.items() if name not in left_out}
    room = max(16, page.width - (57 if has_nats else 52))
    rows = [
        [page.known(shorten(str(row.adapter), room, page.mark)), *(cell(row) for cell in columns.values())]
        for row in shown.itertuples()
    ]
    page.columns(("adapter", *columns), rows, padding=(0, 2), width=page.width)


REPORT = "report.html"
# Key, title and kind of the numbers that the page shows: counts, shares of 1, and others; the scatter offers these too.
NUMBERS = (
    ("nats", "predicted nats", "number"),
    ("nats_in_affected", "their share in matrices with intruders", "share"),
    ("intruders", "intruders", "count"),
    ("intruder_share", "intruder share", "share"),
    ("energy_share", "energy share", "share"),
    ("update_relative_median", "relative update, median", "share"),
    ("update_relative_max", "relative update, largest", "share"),
    ("frobenius", "update norm", "number"),
    ("effective_rank", "effective rank, median", "number"),
    ("stable_rank", "stable rank, median", "number"),
    ("rank_max", "rank, largest", "count"),
    ("scale_max", "scale, largest", "number"),
    ("matrices", "matrices", "count"),
    ("zero_updates", "zero updates", "count"),
    ("nearest_cosine", "cosine with the nearest", "number"),
    ("unusual", "unusual", "number"),
)
TEXTS = (
    "adapter", "status", "reason", "duplicate_of", "nearest", "method", "targets", "named_base", "matched_by",
    "for_hosts", "predicted_nats", "nats_on",
)  # fmt: skip
_NOT_JUDGED = 65535  # in place of a count
# Of a share of 1, each 0.002 %: what is written with one decimal changes only between two of them, never inside one.
_STEPS = 50_000


def render_fleet(fleet: FleetAudit) -> str:
    return render_page("fleet.html.j2", ["plots.js", "fleet.js"], fleet_payload(fleet), fleet=fleet)


def fleet_payload(fleet: FleetAudit) -> dict[str, Any]:
    """Return plain JSON values: a list for each row of the table, and the packed matrices of each adapter."""
    opinions = with_opinions(fleet.adapters).astype(object)
    for row in (rows := opinions.where(opinions.notna(), None).to_dict("records")):
        nats = row["nats"], row["nats_low"], row["nats_high"]
        row["predicted_nats"] = None if row["nats"] is None else in_short(*nats)
    table = fleet.counted_matrices()
    matrices = {str(digest): group for digest, group in table.groupby("digest", sort=False)}
    names = list(dict.fromkeys(table["name"]))
    paths = module_paths(names)
    of_rows = [matrices.get(row["digest"]) if row["status"] == "audited" else None for row in rows]
    return {
        "base": fleet.base_source,
        "options": shlex.join(options_of_audit(fleet.settings)),
        "numbers": [list(column) for column in NUMBERS],
        "texts": list(TEXTS),
        "rows": [
            [*for_page([row[key] for key, _, _ in NUMBERS]), *(row[key] for key in TEXTS)] for row in rows
        ],
        "matrices": [
            [name, path.stack, path.layer, path.kind] for name, path in zip(names, paths, strict=True)
        ],
        "packed": [None if group is None else packed_matrices(group, names) for group in of_rows],
    }


def packed_matrices(group: pd.DataFrame, names: list[str]) -> list[str]:
    """Pack counts and steps of shares in two bytes, and relative updates in single precision, per matrix in base64."""
    frame = group.set_index("name").reindex(names)
    counts = frame["intruders"].clip(upper=_NOT_JUDGED - 1).fillna(_NOT_JUDGED).to_numpy("<u2")
    energy = frame["intruder_energy_share"].fillna(0.0).to_numpy(np.float64)
    steps = np.where(energy > 0, 1 + np.floor(_STEPS * energy.clip(max=1.0)), 0).astype("<u2")
    arrays = (counts, steps, frame["relative_update"].to_numpy("<f4"))
    return [base64.b64encode(numbers.tobytes()).decode() for numbers in arrays]


# Columns in which a model may be unusual, and whether their logarithm is compared.
_COMPARED = {
    "intruder_share": False,
    "energy_share": False,
    "update_relative_median": True,
    "update_relative_max": True,
    "frobenius": True,
    "effective_rank": True,
    "stable_rank": True,
}
# Of a normal distribution, the standard deviation divided by the median absolute deviation, and by the mean one.
_MAD, _MEAN_AD = 1.4826, 1.2533
_LEAST_TO_COMPARE = 5
# Relative deviations up to this are rounding: one adapter at several scales has one effective rank, to the last digits.
_ROUNDING = 1e-6


def with_opinions(table: pd.DataFrame) -> pd.DataFrame:
    for_hosts = pd.Series([_for_hosts(row) for row in table.to_dict("records")], table.index, dtype=object)
    return table.assign(for_hosts=for_hosts, unusual=_unusual(table))


def _for_hosts(row: dict[Hashable, Any]) -> str | None:
    """Return what servers of many adapters refuse or ignore; see docs/how-to/fleet.md."""
    reasons = []
    if not pd.isna(row["method"]) and row["method"] != "lora":
        reasons.append(f"no plain LoRA ({row['method']})")
    if not pd.isna(row["saved_in_full"]) and row["saved_in_full"]:
        reasons.append("modules saved in full")
    pairs = [(row[f"{name}_min"], row[f"{name}_max"]) for name in ("rank", "scale")]
    if any(not pd.isna(least) and least != most for least, most in pairs):
        reasons.append("ranks or scales that differ by module")
    return "; ".join(reasons) or None


def _unusual(table: pd.DataFrame) -> "pd.Series[float]":
    """Return the largest robust distance from the fleet's median over the columns, ``|x - median| / (1.4826 MAD)``.

    Where most adapters have one value, such as no intruders, the median absolute deviation (MAD) is 0 or rounding. The
    spread is then 1.2533 times the mean absolute deviation (Iglewicz and Hoaglin 1993). Where that is no more, the
    column is not compared.
    """
    distances: dict[str, pd.Series[float]] = {}
    judged = table["status"].eq("audited") & table["matrices"].fillna(0).gt(0)
    if judged.sum() < _LEAST_TO_COMPARE:
        return pd.Series(np.nan, table.index)
    for name, by_logarithm in _COMPARED.items():
        values = table.loc[judged, name].astype(float)
        if by_logarithm:
            values = pd.Series(np.log(values.where(values > 0)), values.index)
        deviation = (values - values.median()).abs()
        rounding = _ROUNDING if by_logarithm else _ROUNDING * abs(values.median())
        if deviation.median() > rounding:
            distances[name] = deviation / (_MAD * deviation.median())
        elif deviation.mean() > rounding:
            distances[name] = deviation / (_MEAN_AD * deviation.mean())
    # Without any column there is no row either, and so no distance.
    return pd.DataFrame(distances).fillna(0.0).max(axis=1).reindex(table.index)
