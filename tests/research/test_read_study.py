"""What a study's file says of claims."""

import math

import pytest

from intruders.errors import SettingError
from tests.research.parsed import parsed

MINIMAL = {"experiments": {"one": {"base": "b", "task": "word-problems", "steps": 1}}}


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("analyses", ["structur"], "did you mean 'structure'?"),
        ("compare_with", "paper", "expected one of paper-roberta, paper-llama"),
        ("select", "slowest", "'slowest'"),
        ("support", {"structure": ""}, "expected a sentence on what would count as support"),
        ("support", {"structure": "One.", "rank": 3}, "support of 'rank': "),
        ("primary", {"structure": "one", "rank": ["a"]}, "primary of 'rank': "),
        ("power", {"rank": {"effect": "x"}}, "power of 'rank': "),
        ("power", {"structur": {"spread": 1, "effect": 1}}, "did you mean 'structure'"),
        ("power", {"forgetting": {"effect": 1.5}}, "expected a rank correlation below 1"),
        (
            "power",
            {"forgetting": {"spread_from": "runs/old"}},
            "intervals of this claim are not over seeds",
        ),
        ("power", {"structure": {"effect": math.inf, "spread": 1}}, "effect is inf; expected"),
        ("power", {"structure": {"effect": 1, "spread": math.inf}}, "spread is inf; expected"),
        ("power", {"structure": {"of": "x"}}, "neither an effect nor the folder"),
        ("power", {"structure": {"effect": 1}}, "expected one of spread: NUMBER and spread_from: FOLDER"),
        ("power", {"structure": {"spread": 1}}, "without an effect"),
    ],
)
def test_what_cannot_be_read_is_named(key: str, value: object, said: str) -> None:
    with pytest.raises(SettingError) as caught:
        parsed(MINIMAL | {key: value})
    assert str(caught.value).startswith("study 'file.yaml'")
    assert said in str(caught.value)
