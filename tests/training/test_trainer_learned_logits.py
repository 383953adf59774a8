"""The loss of the logits that are learned alone, and a look in the precision of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from intruders.models.encoding import IGNORED
from intruders.training.trainer import (
    autocast_as_trained,
    loss_of_targets,
    takes_positions,
    with_learned_logits,
)
from tests.tiny import save_bert, save_llama

NOTHING = [IGNORED] * 3


def batch() -> dict[str, Any]:
    """Two rows: a prompt of four with three learned tokens, and one of two with two and padding."""
    ids = torch.tensor([[5, 6, 7, 8, 9, 10, 11], [12, 13, 14, 15, 0, 0, 0]])
    labels = torch.tensor([[*NOTHING, IGNORED, 9, 10, 11], [IGNORED, IGNORED, 14, 15, *NOTHING]])
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": labels}


def test_loss_and_gradients_are_those_of_all_logits(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(save_llama(tmp_path / "llama"))
    assert takes_positions(model)
    fewer = with_learned_logits(batch())
    # Predicted at the position before: 3, 4, 5 of the first row, and 1, 2 of the second.
    assert fewer["logits_to_keep"].tolist() == [1, 2, 3, 4, 5]
    targets = fewer.pop("labels")
    gradients = []
    for few_logits in (False, True):
        model.zero_grad()
        if few_logits:
            loss = loss_of_targets(model(**fewer), targets, torch.tensor(5))
        else:
            loss = model(**batch(), num_items_in_batch=torch.tensor(5)).loss
        loss.backward()
        gradients.append((loss, [parameter.grad.clone() for parameter in model.parameters()]))
    (whole, of_whole), (few, of_few) = gradients
    # The same sums in another order, in single precision.
    assert few.item() == pytest.approx(whole.item(), rel=1e-6)
    for first, second in zip(of_whole, of_few, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-7)


def test_a_batch_without_a_learned_token_has_all_logits() -> None:
    inputs = batch() | {"labels": torch.full((2, 7), IGNORED)}
    assert "logits_to_keep" not in with_learned_logits(inputs)


def test_a_classifier_has_one_row_of_logits_and_is_not_asked(tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(save_bert(tmp_path / "bert"))
    assert not takes_positions(model)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_a_look_has_the_precision_of_the_training(precision: str, dtype: torch.dtype) -> None:
    with autocast_as_trained(precision):
        assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype is dtype
