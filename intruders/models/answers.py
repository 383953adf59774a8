"""What a model writes: answers to a task, one outcome per example to draw intervals over, and text of its own."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ..data.corpora import SELF, Corpus
from ..data.task import ANSWER_TOKENS, Example, Task, final_number
from ..system.progress import Progress
from ..system.store import Kept
from .encoding import (
    IGNORED,
    batches_by_length,
    encode_classification,
    encode_completions,
    encode_parts,
    ends_of_answers,
    ids_alone,
    labels_of_next,
    pad_token_id,
)
from .token_losses import losses_and_hits
from .tuned_model import OpenedModel

_WRITTEN_AT_ONCE = 32  # documents; fixed, so that a document does not depend on how many are wanted
BATCH = 32  # examples that are measured together, where nothing else is asked for
# These count the padding before a prompt among its tokens; RWKV also mixes up what it keeps of several prompts.
_ONE_BY_ONE = frozenset({"minimax", "rwkv", "xlstm"})
BEYOND_TARGET = 16  # tokens that an answer may have more than its target, whatever else is asked for


def outcomes_until_decided(
    opened: OpenedModel, task: Task, examples: Sequence[Example], *, accuracy: float
) -> list[bool | None]:
    """Return which answers are right, with None for those that were not asked because ``accuracy`` is out of reach.

    As soon as too many answers are wrong, no further one is generated. An untrained model, which writes on to its
    limit, is told from a trained one by a few answers.
    """
    settled = _targets(opened, task, examples, BATCH).reproduced
    if task.kind == "classification":
        return [*settled]
    right: list[bool | None] = [is_settled or None for is_settled in settled]
    open_rows = [row for row, is_settled in enumerate(settled) if not is_settled]
    at_a_look = 16
    for start in range(0, len(open_rows), at_a_look):
        rows = open_rows[start : start + at_a_look]
        # On a processor, autocast would cast every weight anew for every token.
        with torch.autocast("cpu", enabled=False):
            given = _answers_of(opened, task, examples, rows, at_a_look)
        for row, answer in given.items():
            right[row] = is_right(task, examples[row], answer.text)
        if (len(right) - right.count(False)) / len(right) < accuracy:
            break
    return right


@dataclass(frozen=True)
class Graded:
    """The results of a model on examples, in their order."""

    # -log p(target | prompt) in nats, summed over the target's tokens; for a label, -log p of its class.
    losses: list[float]
    tokens: list[int]  # the number of tokens in each sum; 1 for a label
    right: list[bool] | None  # whether the answer is right; None if it was not measured
    # Whether every token of the target is the most likely one after those before it, as greedy generation needs it.
    reproduced: list[bool]
    unfinished: int = 0  # generated answers that did not end within their limit


def graded(
    opened: OpenedModel,
    task: Task,
    examples: Sequence[Example],
    *,
    batch_size: int = BATCH,
    answers: bool = True,
) -> Graded:
    """Measure the loss on each example's target and, with ``answers``, whether the model's own answer is right."""
    targets = _targets(opened, task, examples, batch_size)
    if task.kind == "classification":
        return replace(targets, right=targets.reproduced)
    if not answers:
        return targets
    # Where every next token of the target is the most likely one, greedy generation gives just the target:
    # one forward pass settles those, and only the others are generated.
    right = list(targets.reproduced)
    open_rows = [row for row, settled in enumerate(right) if not settled]
    given = _answers_of(opened, task, examples, open_rows, batch_size)
    for row, answer in given.items():
        right[row] = is_right(task, examples[row], answer.text)
    return replace(targets, right=right, unfinished=sum(not answer.has_ended for answer in given.values()))


def _answers_of(
    opened: OpenedModel, task: Task, examples: Sequence[Example], rows: Sequence[int], batch_size: int
) -> "dict[int, Answer]":
    asked, most = [examples[row] for row in rows], tokens_of_answers(task)
    answers = generated_answers(opened, asked, batch_size=batch_size, max_new_tokens=most)
    return dict(zip(rows, answers, strict=True))


def tokens_of_answers(task: Task) -> int:
    """Return how many tokens an answer may have, unless its target and ``BEYOND_TARGET`` are more."""
    # A text that runs on behind its target is not the target: nothing that comes later makes it right.
    return 0 if task.score == "exact" else task.max_new_tokens


def is_right(task: Task, example: Example, answer: str) -> bool:
    """Return whether a generated answer counts as the example's target."""
    if task.score == "final-number":
        given, wanted = final_number(answer), final_number(example.target)
        return given is not None and given == wanted
    return answer.strip() == example.target.strip()


@dataclass(frozen=True)
class Answer:
    """The text that a model wrote after a prompt."""

    text: str
    has_ended: bool  # by a token that ends answers; False where its limit cut it


@torch.no_grad()
def generated_answers(
    opened: OpenedModel,
    examples: Sequence[Example],
    *,
    batch_size: int = BATCH,
    max_new_tokens: int = ANSWER_TOKENS,
) -> list[Answer]:
    """Complete every prompt greedily, up to a token that ends answers or to its own limit.

    The limit of a prompt is ``max_new_tokens``, or its target and ``BEYOND_TARGET`` tokens if that is more, and
    never more than the context has room for after the prompt. Other prompts of the batch do not affect it.
    """
    tokenizer, context = opened.tokenizer, opened.context
    answers = [Answer("", has_ended=False)] * len(examples)
    prompts = [prompt for prompt, _ in encode_parts(tokenizer, examples)]
    targets = [len(ids_alone(tokenizer, example.target)) for example in examples]
    rooms = [
        min(max(max_new_tokens, target + BEYOND_TARGET), context - len(prompt))
        for prompt, target in zip(prompts, targets, strict=True)
    ]
    own: Any = opened.model
    if own.config.model_type in _ONE_BY_ONE:
        batch_size = 1
    with evaluating(opened.model):
        for rows in _batches_to_complete([len(prompt) for prompt in prompts], rooms, context, batch_size):
            given = _generate(opened, [prompts[row] for row in rows], [rooms[row] for row in rows])
            for row, answer in zip(rows, given, strict=True):
                answers[row] = answer
    return answers


def _batches_to_complete(
    lengths: Sequence[int], rooms: Sequence[int], context: int, batch_size: int
) -> Iterator[list[int]]:
    # Rows of similar length that have room. One that has ended gets padding as long as another row of its batch
    # continues, so that the longest prompt must have positions for the widest room.
    batch: list[int] = []
    for row in sorted((row for row, room in enumerate(rooms) if room > 0), key=lambda row: lengths[row]):
        widest = max([rooms[row], *(rooms[other] for other in batch)])
        if batch and (len(batch) == batch_size or lengths[row] + widest > context):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Turn dropout off within the block. A part of a model in training may be in evaluation, and stays so."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _generate(opened: OpenedModel, prompts: list[list[int]], rooms: list[int]) -> list[Answer]:
    from transformers import StoppingCriteriaList

    model: Any = opened.model
    pad = pad_token_id(opened.tokenizer)
    width = max(len(prompt) for prompt in prompts)
    device = opened.device
    # Generation continues the right end, so padding goes to the left.
    ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts], device=device)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    mask = (torch.arange(width, device=device) >= width - lengths[:, None]).long()
    limits = torch.tensor(rooms, device=device) + width  # (batch,)
    with without_own_settings(model) as own_settings:
        ends = ends_of_answers(opened.tokenizer, own_settings)
        written = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max(rooms),
            stopping_criteria=StoppingCriteriaList([lambda so_far, scores, **_: so_far.shape[1] >= limits]),
            do_sample=False,
            num_beams=1,
            use_cache=True,  # Trainer turns the cache off in the model's configuration
            pad_token_id=pad,
            eos_token_id=ends or None,
        )
    answers = []
    for row, room in zip(written[:, width:].tolist(), rooms, strict=True):
        own = row[:room]  # behind it is padding
        length = next((position for position, token in enumerate(own) if token in ends), None)
        text = opened.tokenizer.decode(own[:length], skip_special_tokens=True)
        answers.append(Answer(text, length is not None))
    return answers


@contextmanager
def without_own_settings(model: Any) -> Iterator[Any]:
    """Generate without the model's own settings within the block, and yield them.

    Its generation_config.json may have penalties, which would count the padding as said before, suppressed tokens,
    another length or another kind of result. None of these is greedy.
    """
    from transformers import GenerationConfig

    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    own, inner.generation_config = inner.generation_config, GenerationConfig()
    try:
        yield own
    finally:
        inner.generation_config = own


def own_text(
    opened: OpenedModel, kind: str, count: int, tokens: int, seed: int, kept: Kept, progress: Progress
) -> Corpus:
    """Return a corpus of documents that are samples of a causal model, or random tokens of its vocabulary, once made.

    Samples begin at the first token of a sequence and are drawn at temperature 1 from all tokens; text of the model is
    as good as its pre-training text to keep what it knows (arXiv 2505.13811, 2605.26097).
    """

    def written() -> list[str]:
        tokenizer, most = opened.tokenizer, min(tokens, opened.context)
        documents: list[str] = []
        for batch in range(0, count, _WRITTEN_AT_ONCE):
            progress("write text by the base", batch, count)
            torch.manual_seed(seed + batch)
            if kind == SELF:
                rows = sampled_tokens(opened, _WRITTEN_AT_ONCE, most)
            else:
                ordinary = torch.tensor(sorted({*range(len(tokenizer))} - {*tokenizer.all_special_ids}))
                rows = ordinary[torch.randint(len(ordinary), (_WRITTEN_AT_ONCE, most))].tolist()
            documents += [tokenizer.decode(row) for row in rows]
        return documents[:count]

    unit = {"text": kind, "count": count, "tokens": tokens, "seed": seed}
    with torch.random.fork_rng():  # what follows draws what it would without
        return Corpus(kind, kept.once(unit, list[str], written))


@torch.no_grad()
def sampled_tokens(opened: OpenedModel, count: int, tokens: int) -> list[list[int]]:
    """Return the tokens of samples without the first, and up to the end of the sequence."""
    model: Any = opened.model
    tokenizer = opened.tokenizer
    end = tokenizer.eos_token_id
    first = end if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    ids = torch.full((count, 1), first, device=opened.device)
    with evaluating(model), without_own_settings(model):
        written = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens - 1,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            use_cache=True,
            pad_token_id=pad_token_id(tokenizer),
            eos_token_id=end,
        )
    rows = [row[1:] for row in written.tolist()]
    return [row[: row.index(end)] if end in row else row for row in rows]


@torch.no_grad()
def _targets(opened: OpenedModel, task: Task, examples: Sequence[Example], batch_size: int) -> Graded:
    # The loss of each target, and whether each of its tokens is the most likely one given those before it.
    model, tokenizer = opened.model, opened.tokenizer
    if task.kind == "classification":
        rows = encode_classification(tokenizer, examples, opened.labels or task.labels, opened.context)
    else:
        rows = encode_completions(tokenizer, examples, opened.context, where="rows to score", trains=False)
    losses, tokens, reproduced = [0.0] * len(rows), [0] * len(rows), [False] * len(rows)
    with evaluating(model):
        for chosen, batch in batches_by_length(rows, tokenizer, batch_size, opened.device):
            wanted = labels_of_next(batch.pop("labels"))  # (batch, width) tokens, or (batch,) classes
            each, hits = losses_and_hits(model, batch, wanted)
            counts = (wanted != IGNORED).reshape(len(wanted), -1).sum(-1).tolist()
            of_rows = zip(chosen, torch.split(each, counts), torch.split(hits, counts), strict=True)
            for row, lost, hit in of_rows:
                losses[row], tokens[row] = float(lost.double().sum()), len(lost)
                reproduced[row] = bool(hit.all())
    return Graded(losses, tokens, None, reproduced)
