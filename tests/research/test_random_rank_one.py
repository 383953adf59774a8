"""A random rank-one term on a base matrix, against the dense decomposition."""

from pathlib import Path

import pytest
import torch

from intruders.audits.audit_settings import AuditSettings
from intruders.checkpoints.opening.open import open_checkpoint
from intruders.errors import SettingError
from intruders.linalg.spiked_threshold import Spectrum, spiked_threshold
from intruders.studies.results import load_results
from intruders.studies.run_study import run_study
from intruders.studies.runs import Run
from intruders.studies.study import Measure
from intruders_research.random_rank_one import random_rank_one
from tests.research.parsed import parsed

MULTIPLES = (0.05, 0.5, 1, 3)


def terms(base: Path, *multiples: float, k: int = 10, include: tuple[str, ...] = (), seed: int = 0) -> Run:
    measure = Measure(audit=AuditSettings(k=k))
    return Run(
        "term", "alone", "random-rank-one", seed, str(base), measure, multiples=multiples, include=include
    )


def test_counts_are_those_of_the_dense_decomposition(llama: Path) -> None:
    """The same directions, drawn here as the docstring says, and every cosine computed."""
    rows = random_rank_one(terms(llama, *MULTIPLES, k=4, include=("*q_proj*", "*up_proj*"), seed=3))
    checkpoint = open_checkpoint(str(llama))
    generator = torch.Generator().manual_seed(3)
    wanted, predicted = [], []
    for name in checkpoint.names():
        if ".q_proj." not in name and ".up_proj." not in name:
            continue
        matrix = checkpoint.read(name).double()
        u, v = (torch.randn(size, generator=generator, dtype=torch.float64) for size in matrix.shape)
        base = torch.linalg.svd(matrix)
        spectrum = Spectrum.of_values(base.S, (matrix.shape[0], matrix.shape[1]), len(base.S))
        predicted += [spiked_threshold(spectrum, 4, 0.5) / float(base.S[0])] * len(MULTIPLES)
        for multiple in MULTIPLES:
            tuned = matrix + multiple * base.S[0] * torch.outer(u / u.norm(), v / v.norm())
            left = torch.linalg.svd(tuned).U[:, :4]
            width = min(matrix.shape)
            largest = (base.U[:, :width].mT @ left).abs().amax(0)
            wanted.append((name, *matrix.shape, multiple, int((largest < 0.5).sum())))
    columns = ("name", "rows", "columns", "multiple", "intruders")
    found = [tuple(row[column] for column in columns) for row in rows]
    assert found == wanted
    assert [row["predicted_multiple"] for row in rows] == pytest.approx(predicted, rel=1e-5)
    assert any(row["intruders"] for row in rows)


def test_a_pattern_that_matches_nothing_is_refused(llama: Path) -> None:
    with pytest.raises(SettingError, match="no_such"):
        random_rank_one(terms(llama, 1, include=("*no_such*",)))


def test_a_study_has_runs_of_this_kind(llama: Path, tmp_path: Path) -> None:
    alone = {"kind": "random-rank-one", "base": str(llama), "multiples": [0.01, 5], "include": ["*.q_proj.*"]}
    outcome = run_study(parsed({"experiments": {"alone": alone}}), tmp_path / "out")
    assert (outcome.finished, outcome.failed) == (1, {})
    results = load_results(tmp_path / "out")
    assert list(results.runs["kind"]) == ["random-rank-one"]
    assert len(results.mechanism) == 2 * 2
    assert results.mechanism.groupby("multiple")["intruders"].sum()[0.01] == 0
