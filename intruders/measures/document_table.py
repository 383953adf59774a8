"""Losses of single documents as a table: one row per document of every part of every corpus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from .losses import DocumentLosses


def table_of(losses: Mapping[str, Sequence[DocumentLosses]]) -> pd.DataFrame:
    """Return the losses by corpus, one entry per part of a mixture, as rows."""
    return pd.DataFrame(
        [
            (corpus, part, index, of_part.measure, float(of_part.sums[index]), int(of_part.tokens[index]))
            for corpus, parts in losses.items()
            for part, of_part in enumerate(parts)
            for index in range(len(of_part.sums))
        ],
        columns=["corpus", "part", "document", "measure", "loss_sum", "tokens"],
    )


def losses_in(table: pd.DataFrame, corpus: str) -> list[DocumentLosses]:
    """Return the losses of one corpus in the table, one entry per part of a mixture."""
    rows = table[table["corpus"] == corpus].sort_values(["part", "document"])
    return [
        DocumentLosses(
            str(of_part["measure"].iloc[0]),
            of_part["loss_sum"].to_numpy(np.float64),
            of_part["tokens"].to_numpy(np.int64),
        )
        for _, of_part in rows.groupby("part")
    ]
