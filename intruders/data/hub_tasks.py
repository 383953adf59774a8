"""The tasks of the paper and three instruction sets, by name, from the hub through ``datasets``."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import SettingError, missing_extra
from .task import Example, Kind, Score, Task

_HELD_OUT = 0.05  # of a set without a labelled validation split


@dataclass(frozen=True)
class HubTask:
    """Where a set lies, what its splits are called, and how a row becomes an example."""

    path: str
    example: Callable[[dict[str, Any]], Example]
    kind: Kind = "classification"
    score: Score = "class"
    configuration: str | None = None
    revision: str | None = None
    validation: str | None = "validation"
    test: str | None = None


def _pair(first: str, second: str) -> Callable[[dict[str, Any]], Example]:
    return lambda row: Example(text=row[first], pair=row[second], target=str(row["label"]))


def _siqa(row: dict[str, Any]) -> Example:
    answers = f"1: {row['answerA']} 2: {row['answerB']} 3: {row['answerC']}"
    return Example(text=f"{row['context']} {row['question']}", pair=answers, target=str(row["label"]).strip())


def _winogrande(row: dict[str, Any]) -> Example:
    return Example(
        text=row["sentence"], pair=f"1: {row['option1']} 2: {row['option2']}", target=row["answer"]
    )


def _fever(row: dict[str, Any]) -> Example:
    evidence = " ".join(sentence[-1] for sentence in row["evidence"])
    return Example(text=row["claim"], pair=evidence, target=row["label"])


def _instruction(prompt: str, completion: str) -> Callable[[dict[str, Any]], Example]:
    return lambda row: Example(
        text=f"### Instruction:\n{row[prompt]}\n\n### Response:\n", target=str(row[completion])
    )


def _guanaco(row: dict[str, Any]) -> Example:
    """One conversation in one text; its last answer is what is learned."""
    before, mark, answer = row["text"].rpartition("### Assistant:")
    return Example(text=before + mark, target=answer)


HUB_TASKS = {
    "mnli": HubTask(
        "nyu-mll/glue",
        _pair("premise", "hypothesis"),
        configuration="mnli",
        validation="validation_matched",
        test="validation_mismatched",
    ),
    "qqp": HubTask("nyu-mll/glue", _pair("question1", "question2"), configuration="qqp"),
    "sst2": HubTask(
        "nyu-mll/glue",
        lambda row: Example(text=row["sentence"], target=str(row["label"])),
        configuration="sst2",
    ),
    # The set itself is a script, which datasets no longer runs; the hub keeps its rows as Parquet beside it.
    "siqa": HubTask("allenai/social_i_qa", _siqa, revision="refs/convert/parquet"),
    "winogrande": HubTask("allenai/winogrande", _winogrande, configuration="winogrande_xl"),
    "fever": HubTask("copenlu/fever_gold_evidence", _fever, test="test"),
    "metamathqa": HubTask(
        "meta-math/MetaMathQA", _instruction("query", "response"), "causal", "final-number", validation=None
    ),
    "magicoder": HubTask(
        "ise-uiuc/Magicoder-Evol-Instruct-110K",
        _instruction("instruction", "response"),
        "causal",
        "none",
        validation=None,
    ),
    "guanaco": HubTask(
        "timdettmers/openassistant-guanaco", _guanaco, "causal", "none", validation="test"
    ),
}  # fmt: skip


def hub_task(name: str, seed: int = 0) -> Task:
    """A task of the table, its rows in an order drawn by seed.

    Raises SettingError when the hub cannot be reached or the set has other columns, MissingDependencyError
    without the package ``datasets``.
    """
    source = HUB_TASKS[name]
    train = _rows(name, source, "train", seed)
    if source.validation is not None:
        validation = _rows(name, source, source.validation, seed)
    else:
        held_out = round(_HELD_OUT * len(train))
        train, validation = train[held_out:], train[:held_out]
    test = _rows(name, source, source.test, seed) if source.test is not None else []
    return Task(name, source.kind, source.score, train, validation, test)


def _rows(name: str, source: HubTask, split: str, seed: int) -> list[Example]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise missing_extra(f"the task {name!r}", "datasets", "train") from error
    try:
        rows = load_dataset(source.path, source.configuration, split=split, revision=source.revision)
    except Exception as error:  # datasets, hub and HTTP libraries each raise their own
        raise SettingError(
            f"task {name!r}: the {split} split of {source.path!r} cannot be loaded from the hub "
            f"({type(error).__name__}: {' '.join(str(error).split())[:200]}); check the network, "
            "or pass the data as a local file"
        ) from error
    try:
        examples = [source.example(row) for row in rows]
    except (KeyError, TypeError, IndexError) as error:
        raise SettingError(
            f"task {name!r}: {source.path!r} does not have the columns expected of it ({error!r} failed)"
        ) from error
    random.Random(f"rows {seed}").shuffle(examples)
    return examples
