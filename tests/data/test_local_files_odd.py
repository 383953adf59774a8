"""Data files that people really have, and that were read as something else or not at all."""

import bz2
import gzip
import json
import re
import warnings
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from intruders.data.columns import Columns
from intruders.data.corpora import load_corpora
from intruders.data.load_task import load_task
from intruders.data.local_files import read_rows
from intruders.errors import SettingError
from tests.json_lines import write_rows

PAIR = Columns(prompt="prompt", completion="completion")


def rows_in(file: Path, rows: list[dict[str, Any]]) -> str:
    return str(write_rows(file, rows))


def numbered(count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"what is {number}+1? ", "completion": str(number + 1)} for number in range(count)]


def test_half_a_character_is_refused_with_its_line(tmp_path: Path) -> None:
    halves = [*numbered(3), {"prompt": "a \ud83d b", "completion": "c"}]
    with pytest.raises(SettingError, match=r"column 'prompt' of line 4 of rows\.jsonl has half a character"):
        load_task(rows_in(tmp_path / "rows.jsonl", halves), PAIR)
    with pytest.raises(SettingError, match=r"column 'text' of line 1 of text\.jsonl has half a character"):
        load_corpora(rows_in(tmp_path / "text.jsonl", [{"text": "a \udc00"}]))
    talk = [{"role": "user", "content": "a \ud83d"}, {"role": "assistant", "content": "b"}]
    with pytest.raises(SettingError, match=r"message 1 in column 'talk' of line 1 .* half a character"):
        load_task(rows_in(tmp_path / "talk.jsonl", [{"talk": talk}] * 3), Columns(messages="talk"))


def test_whole_characters_beyond_two_bytes_are_kept(tmp_path: Path) -> None:
    rows = [{"prompt": "a \U0001f600\u2028b", "completion": str(number)} for number in range(4)]
    task = load_task(rows_in(tmp_path / "rows.jsonl", rows), PAIR)
    assert {example.text for example in task.train} == {"a \U0001f600\u2028b"}


def test_json_lines_in_a_file_that_is_called_json_are_rows(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    file.write_text('{"text": "one", "url": "a"}\n\n{"text": "two"}\n')
    read = read_rows(file)
    assert read.rows == [{"text": "one", "url": "a"}, {"text": "two", "url": None}]
    assert read.origin(1) == "line 3 of rows.json"
    file.write_text('\ufeff\n{"text": "hello"}\n\n')
    read = read_rows(file)
    assert read.rows == [{"text": "hello"}]
    assert read.origin(0) == "line 2 of rows.json"


# Without the time, which would be in the names of tests: the processes of a run must collect the same ones.
PACKED = gzip.compress(json.dumps(numbered(50)).encode(), mtime=0)
LATIN = 'text,label\n{"text": "café"}\n'.encode("latin-1")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rows.jsonl.gz", PACKED[:-30], "rows.jsonl.gz' cannot be read as jsonl: "),
        ("rows.jsonl.gz", b"{}", "rows.jsonl.gz' cannot be read as jsonl: "),
        ("rows.jsonl.gz", PACKED[:20] + b"\xff" * 40, "rows.jsonl.gz' cannot be read as jsonl: "),
        ("rows.json", b"[" * 100_000, "rows.json' cannot be read as json: .*recursion"),
        ("rows.jsonl", b"[" * 100_000, "rows.jsonl' cannot be read as jsonl: .*recursion"),
        # An object over several lines is no row of a file of lines.
        ("rows.json", b'{\n"text": "hello"\n}', "it is not a list of objects"),
        ("rows.json", b'{"text": "one"}\n{"text": "two"\n', "cannot be read as json: line 2: Expecting ','"),
        ("rows.csv", LATIN, "rows.csv' is not UTF-8 text: .*; expected UTF-8; save"),
        ("rows.json", LATIN, "rows.json' is not UTF-8 text: .*; expected UTF-8; save"),
        ("rows.jsonl.bz2", b"BZh", "is compressed; .*unpack it"),
        ("rows.xlsx", b"PK", "has an ending that is not known"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_in_one_line(
    name: str, content: bytes, said: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SettingError, match=said) as refused:
        load_task(str(tmp_path / name), PAIR)
    assert "\n" not in str(refused.value)


def test_a_folder_and_a_compressed_corpus_are_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").mkdir()
    for name in ("rows.jsonl", ""):
        with pytest.raises(SettingError, match="is a folder"):
            load_task(str(tmp_path / name), PAIR)
    (tmp_path / "rows.jsonl.bz2").write_bytes(bz2.compress(b"{}\n"))
    with pytest.raises(SettingError, match="it is compressed: unpack it"):
        load_corpora(str(tmp_path / "rows.jsonl.bz2"))


def test_targets_without_the_number_that_is_scored_are_told(tmp_path: Path) -> None:
    rows = rows_in(tmp_path / "rows.jsonl", numbered(20))
    targets = [{"prompt": "?", "completion": target} for target in ("1/2", "yes", "no")]
    columns = replace(PAIR, test_file=rows_in(tmp_path / "test.jsonl", targets), score="final-number")
    with pytest.warns(UserWarning, match=r"2 of 3 targets of the test split have none \(line 2 of"):
        load_task(rows, columns)


def test_rows_that_are_trained_on_and_scored_are_counted(tmp_path: Path) -> None:
    rows = rows_in(tmp_path / "rows.jsonl", numbered(20))
    both = rows_in(tmp_path / "both.jsonl", numbered(25)[15:])
    other = rows_in(tmp_path / "other.jsonl", numbered(30)[26:])
    with pytest.warns(UserWarning, match="5 of 10 rows of the test split are also in the train split"):
        load_task(rows, replace(PAIR, validation_file=other, test_file=both))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_task(rows, PAIR)


def test_decimals_of_a_table_are_numbers(tmp_path: Path) -> None:
    prices = pa.array([Decimal("1.50"), Decimal("2.25"), Decimal("3.00")], pa.decimal128(5, 2))
    pq.write_table(pa.table({"prompt": ["a", "b", "c"], "completion": prices}), tmp_path / "rows.parquet")
    task = load_task(str(tmp_path / "rows.parquet"), PAIR)
    targets = {example.target for example in [*task.train, *task.validation]}
    assert targets == {"1.50", "2.25", "3.00"}


@pytest.mark.parametrize(("one", "other"), [("pos", "pos "), ("Pos", "pos"), ("1", "1.0"), ("1", "True")])
def test_one_label_in_two_spellings_is_told(one: str, other: str, tmp_path: Path) -> None:
    rows = [{"text": f"text {number}", "label": [one, other, "third"][number % 3]} for number in range(30)]
    with pytest.warns(UserWarning, match="are two classes; write them in one way"):
        task = load_task(rows_in(tmp_path / "rows.jsonl", rows), Columns(text=("text",), label="label"))
    assert len(task.labels) == 3


def test_all_rows_without_a_value_are_named_at_once(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    pairs = (("a", "b"), ("a", None), ("", "b"))
    rows: list[dict[str, Any]] = [{"prompt": prompt, "completion": answer} for prompt, answer in pairs]
    rows += [{"prompt": "only this"}, {"prompt": "a", "completion": ""}]
    file.write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    said = "line 3 of rows.jsonl is empty; expected a value in every row; 2 further rows lack one: line 7, line 9"
    with pytest.raises(SettingError, match=re.escape(said)):
        load_task(str(file))


def test_nulls_of_pandas_nullable_types_are_missing(tmp_path: Path) -> None:
    texts = pd.array(["one", None, "two"], dtype="string")
    pd.DataFrame({"text": texts}).to_parquet(tmp_path / "text.parquet")
    assert pd.read_parquet(tmp_path / "text.parquet")["text"][1] is pd.NA
    with pytest.warns(UserWarning, match="1 of 3 rows have no text"):
        assert load_corpora(str(tmp_path / "text.parquet"))[0].documents == ["one", "two"]
    labels = pd.array([1, None, 0], dtype="Int64")
    pd.DataFrame({"text": texts.fillna("x"), "label": labels}).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(SettingError, match=r"column 'label' of row 2 of rows\.parquet is empty"):
        load_task(str(tmp_path / "rows.parquet"))
    times = pd.to_datetime(["2026-01-01", None])
    pd.DataFrame({"text": ["a", "b"], "time": times}).to_parquet(tmp_path / "times.parquet")
    assert [row["time"] is None for row in read_rows(tmp_path / "times.parquet").rows] == [False, True]


def test_a_column_that_was_the_index_of_a_table_can_be_named(tmp_path: Path) -> None:
    table = pd.DataFrame(numbered(20)).set_index("prompt")
    table.to_parquet(tmp_path / "rows.parquet")
    task = load_task(str(tmp_path / "rows.parquet"), PAIR)
    prompts = {row["prompt"] for row in numbered(20)}
    assert {example.text for example in [*task.train, *task.validation]} == prompts


@pytest.mark.parametrize("ending", ["jsonl", "json"])
def test_labels_that_are_truth_values_and_numbers_are_refused(ending: str, tmp_path: Path) -> None:
    """They would be four classes, False, True, 0 and 1, of what is mostly meant as two."""
    rows = [{"text": f"text {row}", "label": row % 2 == 0 if row < 10 else row % 2} for row in range(20)]
    file = tmp_path / f"rows.{ending}"
    write_rows(file, [rows] if ending == "json" else rows)
    where = "row" if ending == "json" else "line"
    said = f"column 'label' is True in {where} 1 of rows.{ending} and 0 in {where} 11 of rows.{ending}"
    with pytest.raises(SettingError, match=re.escape(said)) as caught:
        load_task(str(file))
    assert "\n" not in str(caught.value)
    for alone in (bool, int):
        write_rows(file, [row | {"label": alone(row["label"])} for row in rows])
        assert load_task(str(file)).labels == [str(alone(0)), str(alone(1))]
