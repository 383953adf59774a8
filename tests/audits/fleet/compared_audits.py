"""An audit beside another one of the same adapter."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from unittest.mock import patch

import numpy as np
import pytest
import torch

from intruders.audits.fleet.fleet_work import FleetWork
from intruders.audits.result.audit_result import Audit
from tests.mitigation.hot import medium_llama, wide_spectrum


def medium_model() -> torch.nn.Module:
    return copy.deepcopy(_medium_model())


@cache
def _medium_model() -> torch.nn.Module:
    return wide_spectrum(medium_llama())


def require_equal(found: Audit, wanted: Audit) -> None:
    """Decisions, names, ranks and reasons are the same, and the sizes of updates.

    Singular values are computed only as closely as a decision asks, and in a batch as closely as the most demanding of
    its members asks: up to a sine of 0.2 of their vectors, they are only that near. With ``exact`` they are the same.
    """
    close = 1e-6 if wanted.exact else 0.01
    assert [one.name for one in found.matrices] == [one.name for one in wanted.matrices]
    assert sorted(map(repr, found.skipped)) == sorted(map(repr, wanted.skipped))
    for mine, theirs in zip(found.matrices, wanted.matrices, strict=True):
        assert (mine.shape, mine.rank) == (theirs.shape, theirs.rank)
        assert [(v.index, v.intruder) for v in mine.vectors] == [
            (v.index, v.intruder) for v in theirs.vectors
        ]
        np.testing.assert_allclose(
            [v.singular_value for v in mine.vectors], [v.singular_value for v in theirs.vectors], rtol=close
        )
        np.testing.assert_allclose(mine.base_singular_values[:5], theirs.base_singular_values[:5], rtol=close)
        for name in ("frobenius", "spectral", "effective_rank", "stable_rank"):
            assert getattr(mine.update, name) == pytest.approx(getattr(theirs.update, name), rel=1e-4), name
        for one, other in zip(mine.vectors, theirs.vectors, strict=True):  # both hold the one true value
            lower, upper = zip(one.max_cosine, other.max_cosine, strict=True)
            assert max(lower) <= min(upper) + 1e-4


@contextmanager
def stopped_before_files() -> Iterator[None]:
    """A fleet inside is stopped when its blocks are done and no adapter has a file."""
    with pytest.raises(KeyboardInterrupt), patch.object(FleetWork, "finish", side_effect=KeyboardInterrupt):
        yield
