"""KL to the base in the loss, against differences, sums by hand, and the base's own logits; and the weight decay."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainingArguments

from intruders.models.loading import load_model
from intruders.training.finetune import finetune
from intruders.training.kl_to_base import KLToBase, kl_of_tokens
from intruders.training.methods import make_optimizer, prepare
from intruders.training.run_settings import PLAIN_LORA
from tests.tiny import save_gpt2
from tests.training.tiny_runs import OURS, config_of


def factors(model: Any) -> dict[str, torch.nn.Parameter]:
    """The factors A and B of a LoRA, by name."""
    return {name: p for name, p in model.named_parameters() if ".lora_A." in name or ".lora_B." in name}


def test_kl_is_zero_at_the_start_and_its_gradient_that_of_differences(tmp_path: Path) -> None:
    # GPT-2's layers compute in the precision of their weights; Llama's norms are in single precision always.
    settings = config_of(save_gpt2(tmp_path / "gpt2"), tmp_path / "run", kl_to_base=0.7)
    base = load_model(settings.base, "causal").double().eval()
    kl = KLToBase(settings, base)
    model: Any = prepare(base, settings, "causal").double().eval()
    ids = torch.randint(5, 60, (2, 12), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    inputs["attention_mask"][1, 7:] = 0

    def value() -> torch.Tensor:
        return kl(model, inputs, model(**inputs).logits)

    assert float(value().detach()) == 0
    found = factors(model)
    with torch.no_grad():
        for name, factor in found.items():
            if ".lora_B." in name:
                factor.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
    loss = value()
    assert float(loss.detach()) > 0
    loss.backward()
    for parameter, place in zip(list(found.values())[:2], ((1, 3), (5, 0)), strict=True):
        at = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                parameter[place] += step
                at.append(float(value().detach()))
                parameter[place] -= step
        assert float(parameter.grad[place]) == pytest.approx((at[0] - at[1]) / 2e-5, rel=1e-5)


def test_kl_by_hand_leaves_padding_out() -> None:
    torch.manual_seed(0)
    base, tuned = torch.randn(2, 4, 6).double(), torch.randn(2, 4, 6).double()
    attended = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    p, q = base.softmax(-1), tuned.softmax(-1)
    rows = [(0, 0), (0, 1), (0, 2), (1, 0)]  # the tokens whose next one is attended
    expected = sum(float((p[i, j] * (p[i, j] / q[i, j]).log()).sum()) for i, j in rows) / len(rows)
    assert float(kl_of_tokens(base, tuned, attended)) == pytest.approx(expected)


@pytest.mark.parametrize("method", ["full", "pissa", "lora", "dora", "b-only", "lora-fa"])
def test_the_logits_that_kl_compares_with_are_the_bases(method: str, llama: Path) -> None:
    check_that_kl_compares_with_the_base(method, llama)


def check_that_kl_compares_with_the_base(method: str, llama: Path) -> None:
    """Compare the logits, after every trained parameter has moved, with those of the base before training."""
    settings = config_of(llama, Path("out"), method=method, kl_to_base=1.0)
    base = load_model(str(llama), "causal")
    ids = torch.arange(5, 45)[None]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    expected = base(**inputs).logits
    kl = KLToBase(settings, base)
    model: Any = prepare(base, settings, "causal")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    found = kl.base_logits(model, inputs)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    still = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert still == trainable, "what a method freezes stays frozen"


def test_a_run_tells_how_far_the_model_moved(llama: Path, tmp_path: Path) -> None:
    run = finetune(config_of(llama, tmp_path / "run", kl_to_base=0.5, steps=2, max_eval_samples=1))
    moved = [line["kl_to_base"] for line in run.log if "kl_to_base" in line]
    assert moved
    assert all(number >= 0 for number in moved)


@pytest.mark.parametrize("method", sorted({*PLAIN_LORA, "dora", "pissa"}.intersection(OURS)))
def test_weight_decay_reaches_a_and_b(method: str, llama: Path) -> None:
    settings = config_of(llama, Path("out"), method=method, weight_decay=0.3)
    model = prepare(load_model(str(llama), "causal"), settings, "causal")
    optimizer = make_optimizer(model, settings)
    if optimizer is None:
        arguments = TrainingArguments("unused", weight_decay=settings.weight_decay, use_cpu=True)
        optimizer = Trainer(model, arguments).create_optimizer()
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for parameter in factors(model).values():
        assert not parameter.requires_grad or decay[id(parameter)] == 0.3
