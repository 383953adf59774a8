"""What a model answers, kept as hidden states, against the model's own logits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from intruders.experiments.objective import KeptAnswers
from intruders.models.split_model import SplitModel
from tests.tiny import save_gpt2, save_llama

TEXTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13], [14, 15, 16], [17, 18]] * 3  # more than a batch


@pytest.fixture(params=[save_llama, save_gpt2])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(request.param(tmp_path / "model")).eval()


def encoded(numbers: Sequence[int]) -> tuple[dict[str, Tensor], Tensor]:
    rows = [TEXTS[number] for number in numbers]
    width = max(map(len, rows))
    attended = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": attended}, attended.bool()


def kept(model: Any) -> KeptAnswers:
    split = SplitModel.of(model)
    assert split is not None
    return KeptAnswers(split, encoded, [len(text) for text in TEXTS])


@torch.no_grad()
def test_the_logits_are_the_models_own_in_the_order_asked_for(model: Any) -> None:
    answers = kept(model)
    for numbers in ([3, 0], [7, 1, 10], [0]):
        own = [model(input_ids=torch.tensor([TEXTS[number]])).logits[0] for number in numbers]
        found = answers.logits(numbers)
        assert found is not None
        torch.testing.assert_close(found, torch.cat(own), rtol=1e-4, atol=1e-5)


def test_they_are_the_same_in_any_order_and_computed_once(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A learning that resumes asks for them in another order."""
    answers, resumed = kept(model), kept(model)
    resumed.logits([11, 2])
    first, again = answers.logits([0, 4]), resumed.logits([0, 4])
    assert first is not None
    assert again is not None
    assert torch.equal(first, again)
    monkeypatch.setattr(SplitModel, "states", lambda *_: pytest.fail("computed again"))
    later = answers.logits([4, 0])
    assert later is not None
    assert torch.equal(later[2:], first[:3])  # of a text of two tokens, and of one of three


def test_a_body_that_answers_in_another_form_keeps_nothing(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SplitModel, "states", lambda *_: None)
    assert kept(model).logits([0]) is None
