"""What a study's file says of claims."""

import pytest
import yaml

from intruders.errors import SettingError
from intruders_research.claim_names import CLAIMS
from research.tests.parsed import parsed

MINIMAL = {"experiments": {"one": {"base": "b", "task": "word-problems", "steps": 1}}}


def refused(text: str) -> str:
    with pytest.raises(SettingError) as caught:
        parsed(yaml.safe_load(text))
    return str(caught.value)


def test_without_analyses_all_claims_are_answered() -> None:
    assert parsed(MINIMAL).analyses == tuple(CLAIMS)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ({"analyses": ["structur"]}, "did you mean 'structure'?"),
        ({"compare_with": "paper"}, "expected one of paper-roberta, paper-llama"),
    ],
)
def test_a_name_that_is_not_known_is_refused(key: dict[str, object], said: str) -> None:
    message = refused(yaml.safe_dump(MINIMAL | key))
    assert message.startswith("study 'file.yaml'")
    assert said in message


@pytest.mark.parametrize(("key", "wrong"), [("power", {"effect": "x"}), ("support", 3), ("primary", ["a"])])
def test_the_claim_of_a_wrong_value_is_named(key: str, wrong: object) -> None:
    right = {"power": {"effect": 0.5, "spread": 1}, "support": "One.", "primary": "one"}[key]
    text = yaml.safe_dump(
        {"experiments": {"one": {"base": "b", "task": "t"}}, key: {"structure": right, "rank": wrong}}
    )
    assert f"{key} of 'rank': " in refused(text)
