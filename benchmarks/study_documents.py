"""The losses of single documents in the folder of a study, which its tables do not have."""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from intruders.studies.results import Results, load_results

Losses = pd.DataFrame  # of one model: corpus, document, loss_sum, tokens


def runs_with_losses(folder: Path) -> tuple[Results, dict[str, Losses], dict[str, Losses]]:
    """Return the tables of a study, and by run the losses of its documents: after training, and of the base."""
    results = load_results(folder)
    finished = results.runs[results.runs["status"] == "finished"]
    own = {run: _read(folder / "runs" / run / "evaluation") for run in finished["run_id"]}
    bases = [_read(file.parent) for file in sorted((folder / "bases").glob("*/documents.parquet"))]
    return results, own, {run: _of_same_corpora(bases, losses) for run, losses in own.items()}


def _read(folder: Path) -> Losses:
    return pd.read_parquet(folder / "documents.parquet")


def _of_same_corpora(bases: list[Losses], losses: Losses) -> Losses:
    """Return the base's losses on the same documents: as many of every corpus, of as many tokens each."""
    keys = ["corpus", "document", "tokens"]
    wanted = losses[keys].reset_index(drop=True)
    return next(base for base in bases if base[keys].reset_index(drop=True).equals(wanted))


def mean_loss(losses: Losses, corpus: str) -> float:
    """Return nats per token of a corpus."""
    own = losses[losses["corpus"] == corpus]
    return float(own["loss_sum"].sum() / own["tokens"].sum())


def loss_of_completions(losses: Losses, folder: str) -> float:
    """Return nats per token of the completions: what ``whole`` has more than ``prompts``."""
    whole, prompts = (losses[losses["corpus"] == f"{folder}/{name}.jsonl"] for name in ("whole", "prompts"))
    more = whole["loss_sum"].sum() - prompts["loss_sum"].sum()
    return float(more / (whole["tokens"].sum() - prompts["tokens"].sum()))


def right_answers(losses: Losses, folder: str) -> NDArray[np.bool_]:
    """Return of every item whether its right text is the more probable one."""
    right, wrong = (
        losses[losses["corpus"] == f"{folder}/{name}.jsonl"].sort_values("document")["loss_sum"].to_numpy()
        for name in ("right", "wrong")
    )
    return np.asarray(right < wrong)
