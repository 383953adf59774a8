"""The documents and examples of a comparison, in shares: some to choose strengths by, the others to report on."""

import random
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..data.columns import Columns
from ..data.corpora import OWN_TEXT, Corpora, Corpus, documents_in, halves_of_corpora, load_corpora
from ..data.local_files import SUFFIXES, ending, open_text, read_rows
from ..data.task import Example, Task, halves_of_task
from ..data.values import as_text, is_missing
from ..errors import SettingError, os_reason
from ..models.answers import generated_answers
from ..models.encoding import encode_parts
from ..models.tuned_model import OpenedModel
from ..system.digests import json_digest
from ..system.files import user_path
from ..system.words import plural
from .experiment_settings import HealSettings
from .question import Question

# The least number of documents per corpus, and of examples per task, in a first pass, with as many that follow it.
_LEAST_OF_A_PASS = 3


@dataclass(frozen=True)
class DataShare:
    """Some documents of every corpus (a mixture has several parts), and some examples of every task."""

    name: str
    corpora: Corpora
    examples: Mapping[str, list[Example]]

    @property
    def weights(self) -> dict[str, list[float]]:
        return {name: [part.weight for part in parts] for name, parts in self.corpora.items()}

    @property
    def counts(self) -> dict[str, int]:
        return {
            "documents": sum(documents_in(parts) for parts in self.corpora.values()),
            "examples": sum(len(rows) for rows in self.examples.values()),
        }

    def fingerprint(self) -> str:
        content = {
            "corpora": {
                name: [[part.documents, part.weight] for part in parts]
                for name, parts in self.corpora.items()
            },
            "examples": {name: [asdict(example) for example in rows] for name, rows in self.examples.items()},
        }
        return json_digest(content)


@dataclass(frozen=True)
class DataShares:
    """First pass and rest make up the half that strengths are chosen by; ``first`` is empty where it is too small."""

    first: DataShare
    rest: DataShare
    report: DataShare

    @property
    def choice(self) -> tuple[DataShare, ...]:
        return (self.first, self.rest) if self.first.counts["documents"] else (self.rest,)


def split_data(
    corpora: Corpora, tasks: Mapping[str, Task], max_examples: int | None, seed: int
) -> DataShares:
    """Split every corpus in two halves by seed, and every task into its validation split and its test split.

    A task without a test split is halved. At most ``max_examples`` are taken of either. The first quarter of the
    first half is the first pass, if it is large enough. SettingError for a single document or example.
    """
    chosen_by, reported = halves_of_corpora(corpora, seed)
    rows = {name: halves_of_task(task, max_examples) for name, task in tasks.items()}
    counts = [len(part.documents) for parts in chosen_by.values() for part in parts]
    counts += [len(own) for own, _ in rows.values()]
    has_first_pass = min(counts) >= 2 * _LEAST_OF_A_PASS

    def first_of(items: list[Any]) -> list[Any]:
        return items[: max(_LEAST_OF_A_PASS, len(items) // 4)] if has_first_pass else []

    def rest_of(items: list[Any]) -> list[Any]:
        return items[len(first_of(items)) :]

    def share(name: str, cut: Callable[[list[Any]], list[Any]]) -> DataShare:
        documents = {
            corpus: [replace(part, documents=cut(part.documents)) for part in parts]
            for corpus, parts in chosen_by.items()
        }
        return DataShare(name, documents, {task: cut(own) for task, (own, _) in rows.items()})

    report = DataShare("report", reported, {task: own for task, (_, own) in rows.items()})
    return DataShares(share("first", first_of), share("rest", rest_of), report)


PROMPTS = "prompts"  # the name of the task that prompts alone make
# Of an answer to a prompt without one, in tokens.
_ANSWER = 96


@dataclass(frozen=True)
class HealData:
    """The data to choose by, of the first corpus and task, and the reported data of all."""

    choice: DataShare
    report: DataShare

    @property
    def text(self) -> Sequence[Corpus]:
        """The documents that are learned from, by which the state to keep is chosen too."""
        return next(iter(self.choice.corpora.values()))

    @property
    def task(self) -> str:
        return next(iter(self.report.examples))

    @property
    def corpus(self) -> str:
        return next(iter(self.report.corpora))


def load_texts(names: Sequence[str], settings: HealSettings, seed: int) -> Corpora:
    """Load every corpus, with as many documents as are used; SettingError for one that has no halves."""
    if not names:
        raise SettingError(
            "no text to measure forgetting on; expected text such as the base was trained on; pass --loss-on CORPUS"
        )
    corpora: dict[str, Sequence[Corpus]] = {}
    for name in names:
        if name in OWN_TEXT:  # the base writes it when it is open
            corpora[name] = [Corpus(name, [])]
        else:
            corpora[name] = load_corpora(name, max_documents=settings.max_documents, seed=seed)
            halves_of_corpora({name: corpora[name]}, seed)
    return corpora


def load_tasks(
    question: Question, names: Sequence[str], columns: Columns, prompts: str | None
) -> dict[str, Task]:
    """Load the tasks, each of which has halves; none if prompts are given instead."""
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
    tasks = question.tasks(names, columns)
    for task in tasks.values():
        halves_of_task(task, None)
    return tasks


def data_of(corpora: Corpora, tasks: Mapping[str, Task], settings: HealSettings, seed: int) -> HealData:
    """Split the data into the shares of a healing. Further corpora and tasks are only reported."""
    most, reported = settings.max_examples, settings.report_examples or settings.max_examples
    chosen_by, told = halves_of_corpora(corpora, seed)
    corpus, task = next(iter(corpora)), next(iter(tasks))
    return HealData(
        choice=DataShare("choice", {corpus: chosen_by[corpus]}, {task: halves_of_task(tasks[task], most)[0]}),
        report=DataShare(
            "report", told, {name: halves_of_task(own, reported)[1] for name, own in tasks.items()}
        ),
    )


def read_prompts(file: str) -> list[str]:
    """Read the prompts, six or more, of a text file, one per line, or of the column ``prompt`` of a data file."""
    path = user_path(file)
    if ending(path) in SUFFIXES:
        data = read_rows(path)
        if data.rows and "prompt" not in data.rows[0]:
            raise SettingError(
                f"prompts '{file}' has no column 'prompt'; it has {', '.join(map(repr, data.rows[0]))}; rename one"
            )
        given = [(row["prompt"], data.origin(index)) for index, row in enumerate(data.rows)]
        texts = [as_text(value, "prompt", origin) for value, origin in given if not is_missing(value)]
        prompts = [text for text in texts if text.strip()]
    else:
        try:
            # Not by splitlines, which also splits at characters inside a line, such as U+2028.
            with open_text(path) as lines:
                prompts = [line for line in lines.read().split("\n") if line.strip()]
        except (OSError, EOFError, zlib.error, ValueError) as error:
            raise SettingError(
                f"prompts '{file}' cannot be read: {os_reason(error)}; pass a text or data file"
            ) from error
    if len(prompts) < 6:
        raise SettingError(
            f"prompts '{file}' has {plural(len(prompts), 'prompt')}; expected 6 or more, a third to learn from, a "
            "third to choose by and a third to report; add some"
        )
    return prompts


def task_of_prompts(prompts: Sequence[str], answers: Sequence[str], seed: int) -> Task:
    """Return prompts with the tuned model's answers as a task, in three equal splits."""
    answered = zip(prompts, answers, strict=True)
    examples = [Example(text=prompt, target=answer) for prompt, answer in answered if answer.strip()]
    if len(examples) < 6:
        raise SettingError(
            f"the tuned model answers {len(examples)} of {len(prompts)} prompts with text; expected 6 or more; pass "
            "prompts in the form that it was trained on"
        )
    random.Random(f"prompts {seed}").shuffle(examples)
    third = len(examples) // 3
    learned, choice = len(examples) - 2 * third, len(examples) - third
    return Task(PROMPTS, "causal", "none", examples[:learned], examples[learned:choice], examples[choice:])


def own_answers(opened: OpenedModel, prompts: Sequence[str]) -> list[str]:
    """Return a causal model's greedy answers, in the order of the prompts; nothing where both do not fit its context.

    An answer does not depend on the other prompts.
    """
    asked = [Example(text=prompt, target="") for prompt in prompts]
    given = generated_answers(opened, asked, max_new_tokens=_ANSWER)
    answered = [replace(example, target=answer.text) for example, answer in zip(asked, given, strict=True)]
    lengths = [len(prompt) + len(answer) for prompt, answer in encode_parts(opened.tokenizer, answered)]
    fits = [length <= opened.context for length in lengths]
    if not all(fits):
        warnings.warn(
            f"{fits.count(False):,} of {plural(len(prompts), 'prompt')} and the answer are longer than the context of "
            f"{opened.context:,} tokens and are left out",
            stacklevel=2,
        )
    return [example.target if has_room else "" for example, has_room in zip(answered, fits, strict=True)]
