"""Tasks from local files: JSON lines, JSON, CSV, TSV, Parquet or Arrow, with the columns that the user names."""

import csv
import gzip
import json
import random
import sys
import warnings
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

from ..errors import SettingError, all_lines
from ..system.files import user_path
from ..system.words import plural
from .columns import Columns
from .task import Example, Kind, Task, final_number
from .values import NotTextError, causal_example, classified_example, empty_value, is_missing

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow")  # each may have .gz behind it
# Where nothing tells what is in it, the advice is to unpack.
COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip")
# Without strict, a quotation mark that is not closed makes one cell of the rows that follow. Tab-separated files of the
# field do not quote: a stray quotation mark is text.
_TABLES: dict[str, dict[str, Any]] = {
    ".csv": {"delimiter": ",", "strict": True},
    ".tsv": {"delimiter": "\t", "quoting": csv.QUOTE_NONE},
}
# Names that need not be given, as the libraries of the field have them.
_USUAL = (("prompt", "completion"), ("messages",), ("text", "label"))
_HELD_OUT = 0.1


def local_task(path: Path, columns: Columns, seed: int = 0) -> Task:
    """Load the rows of ``path`` as a task; a tenth, chosen by seed, is for validation if no file is given.

    Where no column is named, those of the usual names are taken: prompt and completion, messages, or text and label.
    """
    file = read_rows(path, no_header=columns.no_header)
    if not columns.named():
        present = list(file.rows[0]) if file.rows else []
        names = next((names for names in _USUAL if set(names) <= set(present)), None)
        if names is None:
            said = f"the columns {', '.join(map(repr, present))}" if present else "no row"
            raise SettingError(
                f"data file {file.name!r} has {said}; expected prompt and completion, messages, or text and label; "
                "name yours with --prompt and --completion, --messages, or --text and --label"
            )
        usual: dict[str, Any] = {name: name for name in names}
        columns = replace(columns, **usual)
    kind = _kind(file.name, columns)
    train = examples_of(file, columns, kind)
    random.Random(f"rows {seed}").shuffle(train)
    given = {"validation": columns.validation_file, "test": columns.test_file}
    scored = {
        split: examples_of(read_rows(user_path(other), no_header=columns.no_header), columns, kind)
        for split, other in given.items()
        if other is not None
    }
    is_held_out = "validation" not in scored
    if is_held_out:
        held_out = max(1, round(_HELD_OUT * len(train))) if train else 0
        train, scored["validation"] = train[held_out:], train[:held_out]
    else:
        random.Random(f"rows {seed}").shuffle(scored["validation"])
    score: Any = "class" if kind == "classification" else columns.score or "exact"
    _tell_of_useless(path.name, score, train, scored)
    test = scored.get("test", [])
    return Task(path.name, kind, score, train, scored["validation"], test, is_held_out=is_held_out)


@dataclass(frozen=True)
class DataFile:
    """The rows of a data file by column, and where in the file each of them is."""

    name: str
    rows: list[dict[str, Any]]
    lines: list[int] | None = None  # of a file of lines: the one at which each row begins, counted from 1

    def origin(self, index: int) -> str:
        """Return where a person finds a row: its line in a file of lines, else its number.

        >>> DataFile("rows.csv", [{"a": "x"}], [2]).origin(0), DataFile("rows.json", [{"a": "x"}]).origin(0)
        ('line 2 of rows.csv', 'row 1 of rows.json')
        """
        where = f"row {index + 1}" if self.lines is None else f"line {self.lines[index]}"
        return f"{where} of {self.name}"


def examples_of(file: DataFile, columns: Columns, kind: Kind) -> list[Example]:
    """Return the rows as examples. SettingError names line and column of a value that is missing or no text."""
    named = [columns.prompt, columns.completion, columns.messages]
    wanted = named if kind == "causal" else [*columns.text, columns.label]
    names = [name for name in wanted if name is not None]
    present = list(file.rows[0]) if file.rows else names
    if lost := [name for name in names if name not in present]:
        raise SettingError(
            f"column {lost[0]!r} is not in {file.name}; it has {', '.join(map(repr, present))}"
        )
    _require_values(file, names)
    if kind == "classification":
        _require_one_kind_of_label(file, names[-1])
    examples, left_out = [], []
    for index, row in enumerate(file.rows):
        origin = file.origin(index)
        values = [row[name] for name in names]
        try:
            of_row = causal_example if kind == "causal" else classified_example
            examples.append(of_row(names, values, origin))
        except NotTextError:
            if not columns.drop_not_text:
                raise
            left_out.append(origin)
    if left_out:
        warnings.warn(
            f"{len(left_out):,} of {plural(len(file.rows), 'row')} of {file.name!r} have tool calls or images, or "
            f"other parts that are no text, and are left out ({left_out[0]})",
            stacklevel=5,
        )
    return examples


def ending(path: Path) -> str:
    """Return the ending that tells what a file has, in small letters.

    >>> ending(Path("rows.JSONL.gz")), ending(Path("rows.gz"))
    ('.jsonl', '')
    """
    return Path(path.stem if _is_gzipped(path) else path.name).suffix.lower()


def open_text(path: Path, newline: str | None = None) -> TextIO:
    """Open a file of UTF-8, with or without a mark of byte order, as it is or packed by gzip."""
    if _is_gzipped(path):
        return cast(TextIO, gzip.open(path, "rt", encoding="utf-8-sig", newline=newline))
    return path.open(encoding="utf-8-sig", newline=newline)


def _is_gzipped(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def read_rows(path: Path, *, no_header: bool = False) -> DataFile:
    """Read the rows of a data file; a value that is missing is None. SettingError for a file that cannot be read."""
    if path.is_dir():
        raise SettingError(f"data file {str(path)!r} is a folder; pass the path of a file in it")
    if not path.is_file():
        raise SettingError(f"data file {str(path)!r} does not exist")
    suffix = ending(path)
    if suffix not in SUFFIXES:
        raise SettingError(
            f"data file {str(path)!r} has an unknown ending; expected one of {', '.join(SUFFIXES)}"
        )
    try:
        if suffix in _TABLES:
            return _delimited(path, no_header, **_TABLES[suffix])
        if suffix in (".parquet", ".arrow"):
            return _columnar(path, suffix)
        return _json(path) if suffix == ".json" else _json_lines(path)
    except UnicodeDecodeError as error:
        said = f"data file {str(path)!r} is not UTF-8 text: {all_lines(error)}"
        raise SettingError(f"{said}; expected UTF-8; save the file in that encoding") from error
    except (ValueError, RecursionError, OSError, EOFError, zlib.error, csv.Error) as error:
        raise SettingError(
            f"data file {str(path)!r} cannot be read as {suffix[1:]}: {all_lines(error)}"
        ) from error


def _kind(name: str, columns: Columns) -> Kind:
    named = set(columns.named())
    if named == {"text", "label"}:
        if len(columns.text) > 2:
            raise SettingError(f"text names {len(columns.text)} columns; expected one, or two for a pair")
        if columns.score is not None:
            raise SettingError(
                f"score is {columns.score!r}, which is for completions; labels are scored by class"
            )
        return "classification"
    if named in ({"prompt", "completion"}, {"messages"}):
        return "causal"
    raise SettingError(
        f"data file {name!r}: the columns named are {', '.join(columns.named())}; expected text and label for "
        "classification, or prompt and completion, or messages alone, for a causal model"
    )


def _tell_of_useless(
    name: str, score: str, train: Sequence[Example], scored: Mapping[str, Sequence[Example]]
) -> None:
    """Warn of rows to score that may be remembered from training, or that no answer is right for."""
    known = {(example.text, example.pair, example.target) for example in train}
    for split, examples in scored.items():
        count = sum((example.text, example.pair, example.target) in known for example in examples)
        if count:
            warnings.warn(
                f"task {name!r}: {count:,} of {plural(len(examples), 'row')} of the {split} split are also in the "
                "train split, so a score on them may be memory",
                stacklevel=5,
            )
        without = [example.origin for example in examples if final_number(example.target) is None]
        if score == "final-number" and without:
            warnings.warn(
                f"task {name!r} is scored by its final number, but {len(without):,} of "
                f"{plural(len(examples), 'target')} of the {split} split have none ({without[0]}), so no answer to "
                "them counts as right; use the score exact, or leave those rows out",
                stacklevel=5,
            )


def _require_values(file: DataFile, names: Sequence[str]) -> None:
    # All rows that lack a value are told, so that a file is fixed at once; a text may be empty.
    empty = [
        (index, name)
        for index, row in enumerate(file.rows)
        for name in names
        if is_missing(row[name]) or (name == names[-1] and isinstance(row[name], str) and not row[name])
    ]
    if empty:
        index, name = empty[0]
        rows = list(dict.fromkeys(index for index, _ in empty))[1:]
        raise empty_value(name, file.origin(index), [file.origin(row) for row in rows])


def _require_one_kind_of_label(file: DataFile, name: str) -> None:
    # Every way to write a label is a class of its own, so that two classes would be learned as four.
    first: dict[bool, int] = {}
    for index, row in enumerate(file.rows):
        if isinstance(row[name], bool | int | float | Decimal):
            first.setdefault(isinstance(row[name], bool), index)
    if len(first) == 2:
        truth, number = first[True], first[False]
        raise SettingError(
            f"column {name!r} is {file.rows[truth][name]} in {file.origin(truth)} and {file.rows[number][name]} in "
            f"{file.origin(number)}, which are different classes; expected truth values alone or numbers alone; "
            "write all labels in one way"
        )


def _delimited(path: Path, no_header: bool, **form: Any) -> DataFile:
    """Read a table of text. Refuse a row with more or fewer cells than the header: its cells would be shifted."""
    csv.field_size_limit(sys.maxsize)  # characters of a cell, which are 131,072 by default
    names: list[str] | None = None
    rows, lines = [], []
    with open_text(path, newline="") as file:
        reader, line = csv.reader(file, **form), 1
        try:
            for cells in reader:
                begun, line = line, reader.line_num + 1
                if not cells:  # an empty line
                    continue
                if names is None and no_header:
                    names = [str(number) for number in range(len(cells))]
                elif names is None:
                    counts: Counter[str] = Counter()
                    names = []
                    for name in cells:  # the second ``a`` becomes ``a.1``
                        names.append(f"{name}.{counts[name]}" if counts[name] else name)
                        counts[name] += 1
                    continue
                if len(cells) != len(names):
                    raise ValueError(
                        f"line {begun} has {plural(len(cells), 'cell')}, and line 1 has {len(names)}; fix it"
                    )
                rows.append(dict(zip(names, cells, strict=True)))
                lines.append(begun)
        except csv.Error as error:
            raise ValueError(
                f"line {line}: {error}; close its quotation marks, and double those within a cell"
            ) from error
    return DataFile(path.name, rows, lines)


def _json_lines(path: Path) -> DataFile:
    rows = {}
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                rows[number] = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"line {number}: {error}") from error
            if not isinstance(rows[number], dict):
                raise ValueError(f"line {number} is not an object")
    return DataFile(path.name, _with_every_column([*rows.values()]), [*rows])


def _json(path: Path) -> DataFile:
    with open_text(path) as file:
        text = file.read()
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        # Many public sets, C4 among them, call a file of JSON lines .json.
        if error.msg != "Extra data" or not text.lstrip().startswith("{"):
            raise
        return _json_lines(path)
    if isinstance(rows, dict) and len(text.strip().splitlines()) == 1:
        return _json_lines(path)  # of one row
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("it is not a list of objects")
    return DataFile(path.name, _with_every_column(rows))


def _with_every_column(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name) for name in names} for row in rows]


def _columnar(path: Path, suffix: str) -> DataFile:
    import pyarrow as pa  # which text files need not wait for
    import pyarrow.parquet as pq

    with cast(BinaryIO, gzip.open(path) if _is_gzipped(path) else path.open("rb")) as file:
        if suffix == ".parquet":
            return DataFile(path.name, pq.read_table(file).to_pylist())
        is_file = file.read(6) == b"ARROW1"  # or a stream, which is what datasets writes
        file.seek(0)
        table = (pa.ipc.open_file(file) if is_file else pa.ipc.open_stream(file)).read_all()
    return DataFile(path.name, table.to_pylist())
