"""Numbers and verdicts in the words of the pages, and Markdown tables."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

MISSED = "\\*"  # the mark of a run that did not reach its score, which Markdown would read as emphasis


def lacking_of(answer: dict[str, Any]) -> str:
    """What a verdict lacks, in brackets and a few words."""
    lacking = answer["lacking"] or ""
    if "(Holm)" in lacking:
        is_against = (answer["estimate"] > 0) != (answer["expected"] == "above 0")
        return f" (clear alone{' against the claim' if is_against else ''}, not among all)"
    lacking = lacking.partition(";")[0].partition(",")[0].removesuffix(" at this spread")
    return f" ({lacking})" if lacking else ""


def forgotten_by_seed(runs: pd.DataFrame) -> str:
    """What every run forgot, in nats per token, with a star where it did not reach its score."""
    return ", ".join(
        f"{run.loss_change:.3f}{'' if run.stopped_by == 'match' else MISSED}" for run in runs.itertuples()
    )


def intruders_by_seed(runs: pd.DataFrame) -> str:
    return ", ".join(f"{count:.0f}" for count in runs["intruders"])


def signed(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:+.2f}"


def percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.0f} %"


def scientific(value: float, decimals: int = 0) -> str:
    digits, power = f"{value:.{decimals}e}".split("e")
    return f"{digits}e{int(power)}"


def with_ends(values: Sequence[float]) -> str:
    return "{:+.3f} [{:+.3f}, {:+.3f}]".format(*values)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    first, *others = (
        "|" + "".join(f" {cell} |" if cell else " |" for cell in cells) for cells in [header, *rows]
    )
    return [first, "|" + "---|" * len(header), *others]
