"""The folder of an evaluation: losses of documents and examples of tasks as tables, and back."""

from pathlib import Path

import numpy as np
import pandas as pd

import intruders
from intruders.measures.corpus_loss import CorpusLoss
from intruders.measures.intervals import Interval
from intruders.measures.losses import DocumentLosses
from intruders.measures.task_score import TaskScore


def test_a_folder_gives_the_losses_of_every_part_and_the_examples_of_each_task_back(tmp_path: Path) -> None:
    parts = [
        DocumentLosses("cross-entropy", np.array([3.0, 4.5]), np.array([2, 3])),
        DocumentLosses("cross-entropy", np.array([1 / 3]), np.array([7])),
    ]
    losses = [CorpusLoss("mixture", Interval(1.0, 0.5, 1.5), parts, [0.7, 0.3])]
    scores = [TaskScore("test.jsonl", "test", right) for right in ([True, False, True], [False, True])]
    intruders.Evaluation("model", None, losses, scores, []).save(tmp_path)
    table = pd.read_parquet(tmp_path / "documents.parquet")
    rows = [["mixture", 0, 0, 3.0, 2], ["mixture", 0, 1, 4.5, 3], ["mixture", 1, 0, 1 / 3, 7]]
    assert table.values.tolist() == rows
    table.sample(frac=1.0, random_state=0).to_parquet(tmp_path / "documents.parquet")  # rows in any order
    evaluation = intruders.Evaluation.load(tmp_path)
    assert evaluation.scores == scores  # each has its own of two with one name
    [read] = evaluation.losses
    assert [part.sums.tolist() for part in read.losses] == [[3.0, 4.5], [1 / 3]]
    assert [part.tokens.tolist() for part in read.losses] == [[2, 3], [7]]
    assert {part.measure for part in read.losses} == {"cross-entropy"}
