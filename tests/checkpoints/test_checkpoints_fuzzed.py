"""The readers' fuzz targets, 150 files each, of PEFT's 50; ``python -m tests.checkpoints.fuzzing`` tries more."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intruders.checkpoints.stored.json_file import parse_json_object
from tests.checkpoints.fuzzing import TARGETS, fuzz, read_all
from tests.checkpoints.models import refused

TRIES = 150
# A model with an adapter that PEFT makes and saves takes many times as long as a file.
TRIES_BY_PEFT = 50


def json_like() -> st.SearchStrategy[bytes]:
    """Objects as text, some with a key twice, a number that JSON has no name for, or a cut end."""
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=8,
    )
    whole = st.dictionaries(st.text(max_size=3), values, max_size=4).map(json.dumps)
    twice = st.tuples(st.text(max_size=2).map(json.dumps), values.map(json.dumps)).map(
        lambda pair: f"{{{pair[0]}: {pair[1]}, {pair[0]}: 1}}"
    )
    cut = st.tuples(whole, st.integers(0, 40)).map(lambda pair: pair[0][: pair[1]])
    return st.one_of(whole, twice, cut).map(str.encode)


# Files that once found something: target, seed, and what is said of each. They are tried first, for ever.
KEPT = [
    (
        "adapter",
        20,
        r"has the factors \(7, 7\) and \(4, 2\) for 'model.layers.0.a'; expected \(r, in\) and \(out, r\)",
    ),
    ("adapter", 340, "has factors for 'model.layers.0.a' that do not multiply: "),
    ("config", 473, r"the quantized parts of 'a' do not fit together \(weight_scale\)"),
]


@pytest.mark.parametrize(("target", "seed", "said"), KEPT)
def test_files_that_once_found_something(tmp_path: Path, target: str, seed: int, said: str) -> None:
    written = TARGETS[target](tmp_path, random.Random(seed))
    assert written is not None
    with refused(said):
        read_all(written)


@pytest.mark.parametrize("target", TARGETS)
def test_damaged_files(tmp_path: Path, target: str, capsys: pytest.CaptureFixture[str]) -> None:
    tries = TRIES_BY_PEFT if target == "adapter made by PEFT" else TRIES
    outcomes = fuzz(target, tmp_path, tries, seed=7)
    assert sum(outcomes.values()) == tries
    assert outcomes["refused"] > 0
    with capsys.disabled():
        print(f"\nfuzz {target}: {tries} files tried, {outcomes['read']} read, {outcomes['refused']} refused")


@given(st.one_of(st.binary(max_size=300), json_like()))
@settings(max_examples=300, deadline=None)
def test_any_bytes_as_json(content: bytes) -> None:
    """Python's own reader is the truth, but for keys that stand twice, which it lets pass."""
    twice: list[str] = []

    def noted(pairs: list[tuple[str, object]]) -> dict[str, object]:
        twice.extend(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        return dict(pairs)

    try:
        wanted = json.loads(content.decode("utf-8"), object_pairs_hook=noted)
    except ValueError:
        wanted = None
    if isinstance(wanted, dict) and not twice:
        assert repr(parse_json_object(content, "it")) == repr(wanted)  # NaN differs from itself
    else:
        with refused(r"^it "):
            parse_json_object(content, "it")
