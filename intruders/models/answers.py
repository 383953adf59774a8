"""How well a model does a task: one outcome per example, so that intervals can be drawn over examples."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ..data.task import Example, Task
from .encoding import (
    IGNORED,
    PadRight,
    encode_classification,
    encode_completions,
    encode_parts,
    pad_token_id,
)

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def outcomes(
    model: nn.Module,
    tokenizer: Any,
    task: Task,
    examples: Sequence[Example],
    *,
    context: int,
    labels: Sequence[str] | None = None,
    batch_size: int = 32,
) -> list[bool]:
    """For each example whether the model's answer is right, in order.

    Classification: the class of the largest logit is the label. Causal: a greedy completion of the prompt,
    compared by the task's score (its last number, or its whole text). ``labels`` names the model's outputs in
    order where that is not the task's own order.
    """
    found = graded(model, tokenizer, task, examples, context=context, labels=labels, batch_size=batch_size)
    assert found.right is not None
    return found.right


@dataclass(frozen=True)
class Graded:
    """What a model makes of examples, in their order."""

    losses: list[
        float
    ]  # -log p(target | prompt) in nats, summed over the target's tokens; of a label, of its class
    tokens: list[int]  # how many each sum holds; of a label 1
    right: list[bool] | None  # whether the answer is right; None where it was not asked for


def graded(
    model: nn.Module,
    tokenizer: Any,
    task: Task,
    examples: Sequence[Example],
    *,
    context: int,
    labels: Sequence[str] | None = None,
    batch_size: int = 32,
    answers: bool = True,
) -> Graded:
    """For each example the loss on its target, and, with ``answers``, whether the model's own answer is right."""
    if task.kind == "classification":
        return _classes(model, tokenizer, labels or task.labels, examples, context, batch_size)
    found = _targets(model, tokenizer, examples, context, batch_size)
    if not answers:
        return replace(found, right=None)
    # Where every next token of the target is the most likely one, greedy generation gives just the target:
    # one forward pass settles those, and only the others are generated.
    right = list(found.right or [])
    open_rows = [row for row, settled in enumerate(right) if not settled]
    given = complete(
        model, tokenizer, [examples[row] for row in open_rows], context=context, batch_size=batch_size
    )
    for row, answer in zip(open_rows, given, strict=True):
        right[row] = is_right(task, examples[row], answer)
    return replace(found, right=right)


def is_right(task: Task, example: Example, answer: str) -> bool:
    """Whether a generated answer counts as the example's."""
    if task.score == "final-number":
        found, wanted = final_number(answer), final_number(example.target)
        return found is not None and found == wanted
    return answer.strip() == example.target.strip()


def final_number(text: str) -> float | None:
    """The last number in ``text``, thousands separators taken out; None when there is none."""
    found = _NUMBER.findall(text.replace(",", ""))
    return float(found[-1]) if found else None


@torch.no_grad()
def complete(
    model: nn.Module, tokenizer: Any, examples: Sequence[Example], *, context: int, batch_size: int = 32
) -> list[str]:
    """Greedy completions of the prompts, up to end-of-sequence or somewhat longer than the targets."""
    answers = [""] * len(examples)
    prompts = [prompt for prompt, _ in encode_parts(tokenizer, examples)]
    targets = [len(tokenizer(example.target, add_special_tokens=False)["input_ids"]) for example in examples]
    # Prompts of like length share a batch: less padding, and the answer does not depend on the batch.
    order = sorted(range(len(examples)), key=lambda row: len(prompts[row]))
    with evaluating(model):
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            width = max(len(prompts[row]) for row in rows)
            room = min(max(targets[row] for row in rows) + 16, context - width)
            generated = _generate(model, tokenizer, [prompts[row] for row in rows], width, room)
            for row, ids in zip(rows, generated, strict=True):
                answers[row] = tokenizer.decode(ids, skip_special_tokens=True)
    return answers


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout off within the block."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _generate(
    model: nn.Module, tokenizer: Any, prompts: list[list[int]], width: int, room: int
) -> list[list[int]]:
    if room < 1:
        return [[] for _ in prompts]
    pad = pad_token_id(tokenizer)
    device = next(model.parameters()).device
    # Generation continues the right end, so padding goes to the left.
    ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts], device=device)
    mask = torch.tensor(
        [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device
    )
    written = model.generate(  # type: ignore[operator]
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=room,
        do_sample=False,
        num_beams=1,
        use_cache=True,  # Trainer turns the cache off in the model's configuration
        pad_token_id=pad,
        eos_token_id=tokenizer.eos_token_id,
    )
    rows: list[list[int]] = written[:, width:].tolist()
    end = tokenizer.eos_token_id
    return [row[: row.index(end)] if end in row else row for row in rows]


@torch.no_grad()
def _targets(
    model: nn.Module, tokenizer: Any, examples: Sequence[Example], context: int, batch_size: int
) -> Graded:
    """The loss on every target, and whether each of its tokens is the most likely one, given the target up to there."""
    losses, tokens, right = [0.0] * len(examples), [0] * len(examples), [False] * len(examples)
    rows = encode_completions(tokenizer, examples, context, where="rows to score")
    collate = PadRight(pad_token_id(tokenizer))
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]["input_ids"]))
    device = next(model.parameters()).device
    with evaluating(model):
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = {name: value.to(device) for name, value in collate([rows[row] for row in chosen]).items()}
            labels = batch.pop("labels")[:, 1:]  # (batch, width - 1)
            logits = model(**batch).logits[:, :-1]  # (batch, width - 1, vocabulary)
            scored = labels != IGNORED
            hits = ((logits.argmax(dim=-1) == labels) | ~scored).all(dim=-1)  # (batch,)
            each = torch.zeros(labels.shape, dtype=torch.float64, device=device)
            each[scored] = cross_entropy(logits[scored].float(), labels[scored], reduction="none").double()
            sums, counts = each.sum(-1).tolist(), scored.sum(-1).tolist()
            for place, row in enumerate(chosen):
                losses[row], tokens[row], right[row] = sums[place], counts[place], bool(hits[place])
    return Graded(losses, tokens, right)


@torch.no_grad()
def _classes(
    model: nn.Module,
    tokenizer: Any,
    labels: Sequence[str],
    examples: Sequence[Example],
    context: int,
    batch_size: int,
) -> Graded:
    rows = encode_classification(tokenizer, examples, labels, context)
    collate = PadRight(pad_token_id(tokenizer))
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]["input_ids"]))
    losses, right = [0.0] * len(rows), [False] * len(rows)
    device = next(model.parameters()).device
    with evaluating(model):
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = {name: value.to(device) for name, value in collate([rows[row] for row in chosen]).items()}
            wanted = batch.pop("labels")  # (batch,)
            logits = model(**batch).logits
            each = cross_entropy(logits.float(), wanted, reduction="none").tolist()
            hits = (logits.argmax(dim=-1) == wanted).tolist()
            for place, row in enumerate(chosen):
                losses[row], right[row] = each[place], hits[place]
    return Graded(losses, [1] * len(rows), right)
