"""The tasks of the paper, its neighbors and three instruction sets, by name: from the hub, or a local copy of it.

``$INTRUDERS_DATA`` names a folder with one folder per task or corpus: ``sst2/train.tsv``, ``wikitext-2/test.txt``. The
id of a run does not depend on it; the source that a run records does.
"""

import hashlib
import os
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import SettingError, missing_extra
from ..system.files import user_path
from ..system.notes import errors_only
from .local_files import SUFFIXES, ending, read_rows
from .task import SPLITS, Example, Kind, Score, Task

_HELD_OUT = 0.05  # of a set without a labelled validation split


@dataclass(frozen=True)
class HubTask:
    """The location of a data set, the names of its splits, and how a row becomes an example."""

    path: str
    example: Callable[[dict[str, Any]], Example]
    kind: Kind = "classification"
    score: Score = "class"
    configuration: str | None = None
    revision: str | None = None
    validation: str | None = "validation"
    test: str | None = None
    columns: tuple[str, ...] = ()  # in a local copy without a header, in this order
    label_names: tuple[str, ...] = ()  # as copies may spell the labels 0, 1, ... that the hub has


def _pair(first: str, second: str) -> Callable[[dict[str, Any]], Example]:
    return lambda row: Example(text=row[first], pair=row[second], target=str(row["label"]))


def _text(column: str) -> Callable[[dict[str, Any]], Example]:
    return lambda row: Example(text=row[column], target=str(row["label"]))


def _siqa(row: dict[str, Any]) -> Example:
    answers = f"1: {row['answerA']} 2: {row['answerB']} 3: {row['answerC']}"
    return Example(text=f"{row['context']} {row['question']}", pair=answers, target=str(row["label"]).strip())


def _winogrande(row: dict[str, Any]) -> Example:
    options = f"1: {row['option1']} 2: {row['option2']}"
    return Example(text=row["sentence"], pair=options, target=row["answer"])


def _fever(row: dict[str, Any]) -> Example:
    evidence = " ".join(sentence[-1] for sentence in row["evidence"])
    return Example(text=row["claim"], pair=evidence, target=row["label"])


def _instruction(prompt: str) -> Callable[[dict[str, Any]], Example]:
    return lambda row: Example(
        text=f"### Instruction:\n{row[prompt]}\n\n### Response:\n", target=str(row["response"])
    )


def _guanaco(row: dict[str, Any]) -> Example:
    # A conversation in one text; its last answer is learned.
    before, mark, answer = row["text"].rpartition("### Assistant:")
    return Example(text=before + mark, target=answer)


def _glue(name: str, example: Callable[[dict[str, Any]], Example], **more: Any) -> HubTask:
    return HubTask("nyu-mll/glue", example, configuration=name, **more)


HUB_TASKS = {
    "mnli": _glue(
        "mnli", _pair("premise", "hypothesis"), validation="validation_matched", test="validation_mismatched"
    ),
    "qqp": _glue("qqp", _pair("question1", "question2")),
    "sst2": _glue(
        "sst2", _text("sentence"), columns=("sentence", "label"), label_names=("negative", "positive")
    ),
    "rte": _glue(
        "rte", _pair("sentence1", "sentence2"), columns=("sentence1", "sentence2", "label"),
        label_names=("entailment", "not_entailment"),
    ),
    "agnews": HubTask(
        "fancyzhang/ag_news", _text("text"), validation=None, test="test", columns=("text", "label"),
        label_names=("World", "Sports", "Business", "Sci/Tech"),
    ),
    # The set itself is a script, which datasets no longer runs; the hub keeps its rows as Parquet beside it.
    "siqa": HubTask("allenai/social_i_qa", _siqa, revision="refs/convert/parquet"),
    "winogrande": HubTask("allenai/winogrande", _winogrande, configuration="winogrande_xl"),
    "fever": HubTask("copenlu/fever_gold_evidence", _fever, test="test"),
    "metamathqa": HubTask(
        "meta-math/MetaMathQA", _instruction("query"), "causal", "final-number", validation=None
    ),
    "magicoder": HubTask(
        "ise-uiuc/Magicoder-Evol-Instruct-110K", _instruction("instruction"), "causal", "none", validation=None
    ),
    "guanaco": HubTask("timdettmers/openassistant-guanaco", _guanaco, "causal", "none", validation="test"),
}  # fmt: skip


def hub_task(name: str, seed: int = 0) -> Task:
    """Load a task of the table, its rows shuffled by seed; from ``$INTRUDERS_DATA`` if that has a copy of it."""
    source = HUB_TASKS[name]
    if files := files_of_copied_task(name):
        splits = {split: _examples_of_file(name, file) for split, file in files.items()}
        told = f"copy {digest_of_files(list(files.values()))}"
    else:
        wanted = {"train": "train", "validation": source.validation, "test": source.test}
        with loader_of_hub(f"task {name!r}", source.path) as load:
            rows = {
                split: load(source.path, source.configuration, split=called, revision=source.revision)
                for split, called in wanted.items()
                if called is not None
            }
        splits = {split: _examples(name, source, of_split, source.path) for split, of_split in rows.items()}
        told = "hub " + "/".join(part for part in (source.path, source.configuration) if part)
    for examples in splits.values():
        random.Random(f"rows {seed}").shuffle(examples)
    train, validation = splits["train"], splits.get("validation")
    if validation is None:
        held_out = round(_HELD_OUT * len(train))
        train, validation = train[held_out:], train[:held_out]
    return Task(name, source.kind, source.score, train, validation, splits.get("test", []), source=told)


def files_of_copied_task(name: str) -> dict[str, Path]:
    """Return the file of every split in the local copy of a task of the table; none where the hub is asked for it."""
    folder = folder_of_copy(name)
    if folder is None:
        return {}
    files = {split: file for split in SPLITS if (file := file_of_split(folder, split)) is not None}
    if "train" not in files:
        raise SettingError(
            f"task {name!r}: its local copy '{folder}' has no train file; expected train.tsv, train.jsonl or "
            "such; add it, or unset INTRUDERS_DATA to use the hub"
        )
    return files


def _examples_of_file(name: str, file: Path) -> list[Example]:
    source = HUB_TASKS[name]
    names = source.columns if ending(file) in (".tsv", ".csv") else ()  # which a table without a header lacks
    rows = read_rows(file, no_header=bool(names))
    first = rows.rows[0] if rows.rows else {}
    if len(first) == len(names) > 0 and not set(names) <= set(first.values()):
        rows = replace(rows, rows=[dict(zip(names, row.values(), strict=True)) for row in rows.rows])
    elif names:
        rows = read_rows(file)
    examples = _examples(name, source, rows.rows, f"{file.parent.name}/{file.name}")
    return [replace(example, origin=rows.origin(index)) for index, example in enumerate(examples)]


@contextmanager
def loader_of_hub(what: str, path: str) -> Iterator[Callable[..., Any]]:
    """Give datasets' ``load_dataset``; whatever it raises becomes one line, which names the task or corpus."""
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise missing_extra(f"the {what}", "datasets", "train") from error
    try:
        with errors_only("huggingface_hub"):
            yield load_dataset
    except Exception as error:  # datasets, hub and HTTP libraries each raise their own
        raise SettingError(
            f"{what}: {path!r} cannot be loaded from the hub ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}); check the network, pass the data as a local file, or set "
            "INTRUDERS_DATA to a folder with a copy"
        ) from error


def _examples(name: str, source: HubTask, rows: Iterable[dict[str, Any]], where: str) -> list[Example]:
    try:
        examples = [source.example(row) for row in rows]
    except (KeyError, TypeError, IndexError) as error:
        raise SettingError(
            f"task {name!r}: {where!r} does not have the columns expected of it ({error!r} failed)"
        ) from error
    if not source.label_names:
        return examples
    numbers = {spelled: str(number) for number, spelled in enumerate(source.label_names)}
    numbers |= {number: number for number in numbers.values()}
    unknown = next((example.target for example in examples if example.target not in numbers), None)
    if unknown is not None:
        raise SettingError(
            f"task {name!r}: {where!r} has the label {unknown!r}; expected {', '.join(source.label_names)}, or "
            f"0 to {len(source.label_names) - 1}; fix the file"
        )
    return [replace(example, target=numbers[example.target]) for example in examples]


VARIABLE = "INTRUDERS_DATA"

# What the files of a split may be called, the usual names first.
_STEMS = {"train": ("train",), "validation": ("validation", "dev", "valid"), "test": ("test",)}


def folder_of_copy(name: str) -> Path | None:
    """Return the folder with a copy of the set ``name``; None if ``$INTRUDERS_DATA`` is not set or lacks it.

    The hyphen of a name is optional: ``wikitext-2`` or ``wikitext2``. SettingError if the variable names no folder.
    """
    given = os.environ.get(VARIABLE)
    if not given:
        return None
    folder = user_path(given)
    if not folder.is_dir():
        raise SettingError(
            f"{VARIABLE} is {given!r}, which is not a folder; expected one with a folder per data set; "
            "set it to one, or unset it to use the hub"
        )
    candidates = (folder / spelled for spelled in (name, name.replace("-", "")))
    return next((path for path in candidates if path.is_dir()), None)


def file_of_split(folder: Path, split: str, suffixes: Sequence[str] = SUFFIXES) -> Path | None:
    """Return the file of a split in the folder of a copy, or None. SettingError if two match."""
    files = [
        path
        for stem in _STEMS[split]
        for suffix in suffixes
        for packed in ("", ".gz")
        if (path := folder / f"{stem}{suffix}{packed}").is_file()
    ]
    if len(files) > 1:
        raise SettingError(
            f"'{folder}' has {' and '.join(path.name for path in files)} for the {split} split; "
            "expected one file per split; move the others away"
        )
    return files[0] if files else None


def digest_of_files(files: Sequence[Path]) -> str:
    """Return the first 12 digits of a SHA-256 over the content of files, in this order."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]
