"""The readers' fuzz targets, a few hundred files each; ``python -m tests.checkpoints.fuzzing`` tries more."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intruders.checkpoints.stored.json_file import parse_json_object
from intruders.errors import CheckpointError, IntrudersError

from .fuzzing import TARGETS, fuzz

TRIES = 300

# Files that once found something: (target, seed). They are tried first, for ever.
KEPT = [("adapter", 20), ("adapter", 340), ("config", 473)]


@pytest.mark.parametrize(("target", "seed"), KEPT)
def test_files_that_once_found_something(tmp_path: Path, target: str, seed: int) -> None:
    with contextlib.suppress(IntrudersError):
        TARGETS[target](tmp_path, random.Random(seed))


@pytest.mark.parametrize("target", TARGETS)
def test_damaged_files(tmp_path: Path, target: str, capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = fuzz(target, tmp_path, TRIES, seed=7)
    assert sum(outcomes.values()) == TRIES
    assert outcomes["refused"] > 0
    with capsys.disabled():
        print(f"\nfuzz {target}: {TRIES} files tried, {outcomes['read']} read, {outcomes['refused']} refused")


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_any_bytes_as_json(content: bytes) -> None:
    with contextlib.suppress(CheckpointError):
        assert isinstance(parse_json_object(content, "it"), dict)
