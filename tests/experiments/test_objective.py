"""The objective of a healing, its gradient, what it keeps of models that stay, and the turns of documents."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor

from intruders.experiments.dosed_model import (
    DosedUpdate,
    DoseGroups,
    DoseVector,
    parameters_of,
    put_in_doses,
    with_parameters,
)
from intruders.experiments.objective import Objective, turns_of_parts
from intruders.models.encoding import IGNORED
from intruders.models.loading import load_model
from intruders.models.token_losses import SplitModel
from intruders.models.tuned_model import open_language_model

from .healed_models import Models, llama_and_adapter, read_sides

TEXTS = [[5, 20, 31, 7, 44, 12], [9, 3, 17]]
ROWS = [
    {"input_ids": [5, 6, 7, 8], "attention_mask": [1] * 4, "labels": [IGNORED, IGNORED, 7, 8]},
    {"input_ids": [11, 4, 30], "attention_mask": [1] * 3, "labels": [IGNORED, IGNORED, 30]},
]
WEIGHT = 2.0


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return llama_and_adapter(tmp_path_factory.mktemp("objective"), size=1.0)


def merged(models: Models, doses: dict[str, float]) -> Any:
    """``W0 + a D`` in every adapted matrix, with D = 2 B A by the adapter's file."""
    model: Any = load_model(models[0], "causal").eval().double()
    stored = load_file(Path(models[1]) / "adapter_model.safetensors")
    for name, dose in doses.items():
        a, b = (
            stored[f"base_model.model.{name.removesuffix('.weight')}.lora_{side}.weight"].double()
            for side in "AB"
        )
        model.get_submodule(name.removesuffix(".weight")).weight.data += dose * 2.0 * b @ a
    return model


def in_doses(models: Models, values: Tensor) -> tuple[Any, DoseVector, DoseGroups, dict[str, DosedUpdate]]:
    """The base opened with the updates beside its weights, in doses that all are this number or these."""
    language = open_language_model(models[0], merged=True)
    language.model.requires_grad_(False).eval()
    before, updates, groups = read_sides(models)
    doses = DoseVector(values.detach().expand(len(groups.names)).clone().requires_grad_())
    put_in_doses(language.model, before, updates, groups, doses, is_base=True)
    return language, doses, groups, updates


def log_probabilities(model: Any, ids: list[int]) -> Tensor:
    return model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)


def sums_by_hand(now: Any, base: Any, tuned: Any, replays: bool = False) -> tuple[Tensor, Tensor]:
    """Divergences from the base per token of the texts, and from the tuned model per target of the rows.

    With ``replays`` the losses of tokens and of targets.
    """
    text, task = torch.tensor(0.0), torch.tensor(0.0)
    for ids in TEXTS:
        known, said = (log_probabilities(model, ids) for model in (base, now))
        if replays:
            text = text - said[:-1].gather(1, torch.tensor(ids[1:])[:, None]).sum()
        else:
            text = text + (known.exp() * (known - said)).sum()
    for row in ROWS:
        known, said = (log_probabilities(model, row["input_ids"]) for model in (tuned, now))
        for position, label in enumerate(row["labels"]):
            if label != IGNORED and replays:
                task = task - said[position - 1, label]
            elif label != IGNORED:
                task = task + (known[position - 1].exp() * (known - said)[position - 1]).sum()
    return text / sum(map(len, TEXTS)), task / 3


@torch.no_grad()
def divergences(models: Models, doses: dict[str, float]) -> tuple[float, float]:
    given = doses, dict.fromkeys(doses, 0.0), dict.fromkeys(doses, 1.0)
    text, task = sums_by_hand(*(merged(models, values) for values in given))
    return float(text), float(task)


@pytest.mark.parametrize("logits", [2**25, 1])  # all in one batch, or each alone
def test_divergences_and_their_gradient(models: Models, logits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("intruders.experiments.objective._LOGITS", logits)
    language, doses, groups, _ = in_doses(models, torch.linspace(0.2, 0.9, 4))
    values = doses.values
    objective = Objective(language, language, doses, [TEXTS], [1], ROWS, seed=0)
    losses = objective.gradient(0, WEIGHT)
    assert doses.values is values
    with doses.at(torch.ones_like(values).requires_grad_()):
        assert objective.gradient(0, WEIGHT).task == pytest.approx(0.0, abs=1e-6)
    by_name = {name: float(values.detach()[position]) for name, (position, *_) in groups.places.items()}
    # Of sums in single precision.
    assert (losses.text, losses.task) == pytest.approx(divergences(models, by_name), rel=1e-4, abs=1e-6)
    for name, (position, *_) in groups.places.items():
        up, down = (
            text + WEIGHT * task
            for text, task in (
                divergences(models, {**by_name, name: by_name[name] + h}) for h in (1e-3, -1e-3)
            )
        )
        assert float(values.grad[position]) == pytest.approx((up - down) / 2e-3, rel=2e-3, abs=1e-5)


def test_parts_of_a_mixture_count_by_their_weights(models: Models) -> None:
    # One document per part, of 2 and of 40 tokens: tokens alone would give the first a share of 2 in 42.
    parts = [[[9, 3]], [[5 + number % 60 for number in range(40)]]]
    language, doses, groups, _ = in_doses(models, torch.tensor(0.5))
    objective = Objective(language, language, doses, parts, [0.7, 0.3], ROWS, seed=0)
    told = [objective.gradient(step, WEIGHT).text for step in range(10)]
    base, now = (merged(models, dict.fromkeys(groups.places, dose)) for dose in (0.0, 0.5))
    means = []
    for ((ids),) in parts:
        known, said = log_probabilities(base, ids), log_probabilities(now, ids)
        means.append(float((known.exp() * (known - said)).sum().detach()) / len(ids))
    assert abs(means[0] - means[1]) > 0.2 * max(means)
    # Two documents are drawn at every step: 20 draws, 14 and 6.
    assert sum(told) / 10 == pytest.approx(0.7 * means[0] + 0.3 * means[1], rel=1e-4)


@pytest.mark.parametrize("replays", [False, True])
def test_the_gradient_of_learned_factors_is_that_of_pefts_own(models: Models, replays: bool) -> None:
    """Both divergences of PEFT's live adapter, or with ``replays`` the losses of tokens and targets, by autograd."""
    language, doses, _, updates = in_doses(models, torch.tensor(1.0))
    learned = with_parameters(updates, [(0.7 * one).requires_grad_() for one in parameters_of(updates)])
    with doses.at(doses.values, learned):
        objective = Objective(language, language, doses, [TEXTS], [1], ROWS, seed=0, replays=replays)
        objective.gradient(0, WEIGHT)
    base, first, second = (load_model(models[0], "causal").eval() for _ in range(3))
    peft, tuned = (PeftModel.from_pretrained(one, models[1], is_trainable=True) for one in (first, second))
    factors = {name: value for name, value in peft.named_parameters() if "lora_" in name}
    for value in factors.values():
        value.data *= 0.7
    text, task = sums_by_hand(peft.eval(), base, tuned.eval(), replays)
    (text + WEIGHT * task).backward()
    for name, update in learned.items():
        module = f"base_model.model.{name.removesuffix('.weight')}"
        # The left factor is alpha / r = 2 times B.
        of_b, of_a = (factors[f"{module}.lora_{side}.default.weight"].grad for side in "BA")
        assert torch.allclose(2.0 * update.left.grad, of_b, rtol=1e-3, atol=1e-6), name
        assert torch.allclose(update.right.grad, of_a, rtol=1e-3, atol=1e-6), name


def test_a_body_that_answers_without_hidden_states_is_asked_at_every_step(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    language, doses, *_ = in_doses(models, torch.tensor(0.5))
    objective = Objective(language, language, doses, [TEXTS], [1], ROWS, seed=0)
    with_states = objective.gradient(0, WEIGHT)
    monkeypatch.setattr(SplitModel, "states", lambda *_: None)
    without = Objective(language, language, doses, [TEXTS], [1], ROWS, seed=0).gradient(0, WEIGHT)
    # Of sums in single precision.
    assert (without.text, without.task) == pytest.approx(
        (with_states.text, with_states.task), rel=1e-4, abs=1e-6
    )


@pytest.mark.parametrize("weights", [(0.7, 0.3), (3, 1), (76, 38, 31, 8, 8), (1, 1e-3)])
def test_parts_are_drawn_by_their_weights(weights: tuple[float, ...]) -> None:
    counts = [5 + 3 * part for part in range(len(weights))]
    drawn = [0] * len(weights)
    for step in range(60):
        numbers = turns_of_parts(counts, weights, 8, step, seed=1)
        assert sum(map(len, numbers)) == 8
        drawn = [done + len(part) for done, part in zip(drawn, numbers, strict=True)]
        for done, weight in zip(drawn, weights, strict=True):
            assert abs(done - 8 * (step + 1) * weight / sum(weights)) < len(weights)


@pytest.mark.parametrize(("counts", "weights", "steps"), [([20, 40], [3, 1], 10), ([5], [1], 6)])
def test_every_item_of_a_part_comes_once_before_any_repeats(
    counts: list[int], weights: list[int], steps: int
) -> None:
    """Of fewer items than a step draws, every one comes once a step."""
    turns = [turns_of_parts(counts, weights, 8, step, seed=0)[0] for step in range(steps)]
    first, count = [number for turn in turns for number in turn], counts[0]
    assert len(first) == (60 if count == 20 else 30)
    rounds = [first[begin : begin + count] for begin in range(0, len(first), count)]
    assert all(sorted(numbers) == list(range(count)) for numbers in rounds)
    assert rounds[0] != rounds[1]
