"""The text and the examples of a healing: what is learned from, what chooses, what is reported."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ...data.columns import Columns
from ...data.corpora import Corpus, load_corpora
from ...data.load_task import load_task
from ...data.local_files import SUFFIXES, read_rows
from ...data.task import Example, Task
from ...errors import SettingError
from ...models.answers import evaluating
from ...models.encoding import pad_token_id
from ...models.tuned_model import OpenedModel
from ..bench.data_shares import DataShare, split_data
from .heal_settings import HealSettings

PROMPTS = "prompts"  # the name of the task that prompts alone make

# Of an answer to a prompt without one, in tokens.
_ANSWER = 96
_BATCH = 16


@dataclass(frozen=True)
class HealData:
    """The data to learn from and choose by, of the first corpus and task, and the reported data of all."""

    learned_text: Sequence[Corpus]  # of the first corpus
    learned_examples: Sequence[Example]  # of the first task's training split
    choice: DataShare
    report: DataShare
    tasks: Mapping[str, Task]

    @property
    def task(self) -> str:
        return next(iter(self.tasks))

    @property
    def corpus(self) -> str:
        return next(iter(self.report.corpora))

    def fingerprint(self) -> dict[str, Any]:
        """Return what identifies the data by content."""
        learned = DataShare(
            "learned", {self.corpus: list(self.learned_text)}, {self.task: list(self.learned_examples)}
        )
        return {
            "learned": learned.fingerprint(),
            "choice": self.choice.fingerprint(),
            "report": self.report.fingerprint(),
        }


def load_texts(names: Sequence[str], settings: HealSettings, seed: int) -> dict[str, list[Corpus]]:
    """Load every corpus, with as many documents as are used.

    Raises:
      SettingError: no corpus is given, or a corpus cannot be read.
    """
    if not names:
        raise SettingError(
            "no text to measure forgetting on; expected text such as the base was trained on; pass --loss-on CORPUS"
        )
    return {name: load_corpora(name, max_documents=settings.max_documents, seed=seed) for name in names}


def load_tasks(names: Sequence[str], columns: Columns, seed: int, prompts: str | None) -> dict[str, Task]:
    """Load the tasks; none if prompts are given instead.

    Raises:
      SettingError: neither task nor prompts are given, or a task cannot be read.
    """
    if prompts is not None and names:
        raise SettingError(
            f"prompts is '{prompts}' and task is '{names[0]}'; expected one of the two, since either says what to "
            "keep; leave one out"
        )
    if prompts is None and not names:
        raise SettingError(
            "no task to keep; without one the least forgetting is the base itself; pass --task TASK, a data file with "
            "--prompt and --completion, or --prompts FILE for the tuned model's own answers"
        )
    return {name: load_task(name, columns, seed) for name in names}


def data_of(
    corpora: Mapping[str, list[Corpus]], tasks: Mapping[str, Task], max_examples: int | None, seed: int
) -> HealData:
    """Split the data into the shares of a healing. Further corpora and tasks are only reported.

    Raises:
      SettingError: a corpus has fewer than two documents, or a task fewer than two examples.
    """
    shares = split_data(corpora, tasks, max_examples, seed)
    first, task = next(iter(corpora)), next(iter(tasks))
    text = [
        replace(corpus, documents=[*corpus.documents, *other.documents])
        for corpus, other in zip(shares.first.corpora[first], shares.rest.corpora[first], strict=True)
    ]
    examples = [*shares.first.examples[task], *shares.rest.examples[task]]
    return HealData(
        learned_text=text,
        learned_examples=tasks[task].train[:max_examples],
        choice=DataShare("choice", {first: text}, {task: examples}),
        report=shares.report,
        tasks=tasks,
    )


def read_prompts(file: str) -> list[str]:
    """Read the prompts of a text file, one per line, or of the column ``prompt`` of a data file.

    Raises:
      SettingError: it cannot be read, or has fewer than six prompts.
    """
    path = Path(file).expanduser()
    if path.suffix.lower() in SUFFIXES:
        rows = read_rows(path).rows
        if rows and "prompt" not in rows[0]:
            raise SettingError(
                f"prompts '{file}' has no column 'prompt'; it has {', '.join(map(repr, rows[0]))}; rename one"
            )
        prompts = [str(row["prompt"]) for row in rows if row["prompt"]]
    else:
        try:
            prompts = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise SettingError(
                f"prompts '{file}' cannot be read: {reason}; pass a text or data file"
            ) from error
    if len(prompts) < 6:
        raise SettingError(
            f"prompts '{file}' has {len(prompts)} prompts; expected 6 or more, a third to learn from, a third to "
            "choose by and a third to report; add some"
        )
    return prompts


def task_of_prompts(prompts: Sequence[str], answers: Sequence[str], seed: int) -> Task:
    """Return prompts with the tuned model's answers as a task, in three equal splits.

    Raises:
      SettingError: the model answered nothing.
    """
    examples = [
        Example(text=prompt, target=answer)
        for prompt, answer in zip(prompts, answers, strict=True)
        if answer.strip()
    ]
    if len(examples) < 6:
        raise SettingError(
            f"the tuned model answers {len(examples)} of {len(prompts)} prompts with text; expected 6 or more; pass "
            "prompts in the form that it was trained on"
        )
    random.Random(f"prompts {seed}").shuffle(examples)
    third = len(examples) // 3
    return Task(
        PROMPTS, "causal", "none", examples[: len(examples) - 2 * third],
        examples[len(examples) - 2 * third : len(examples) - third], examples[len(examples) - third :],
    )  # fmt: skip


@torch.no_grad()
def own_answers(opened: OpenedModel, prompts: Sequence[str]) -> list[str]:
    """Return a causal model's greedy answers, in the order of the prompts."""
    tokenizer, model = opened.tokenizer, opened.model
    encoded = [tokenizer(prompt)["input_ids"][-(opened.context - 1) :] for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda row: len(encoded[row]))
    answers = [""] * len(prompts)
    pad, device = pad_token_id(tokenizer), next(model.parameters()).device
    with evaluating(model):
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            width = max(len(encoded[row]) for row in rows)
            ids = [[pad] * (width - len(encoded[row])) + encoded[row] for row in rows]
            mask = [[0] * (width - len(encoded[row])) + [1] * len(encoded[row]) for row in rows]
            written = model.generate(  # type: ignore[operator]
                input_ids=torch.tensor(ids, device=device),
                attention_mask=torch.tensor(mask, device=device),
                max_new_tokens=max(1, min(_ANSWER, opened.context - width)),
                do_sample=False,
                num_beams=1,
                use_cache=True,
                pad_token_id=pad,
                eos_token_id=tokenizer.eos_token_id,
            )
            for row, tokens in zip(rows, written[:, width:].tolist(), strict=True):
                end = tokenizer.eos_token_id
                kept = tokens[: tokens.index(end)] if end in tokens else tokens
                answers[row] = tokenizer.decode(kept, skip_special_tokens=True)
    return answers
