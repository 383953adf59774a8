"""Documents from every kind of source, and mixtures."""

import gzip
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest

from intruders.data import corpora, hub_tasks
from intruders.data.columns import Columns
from intruders.data.corpora import cut_at_blank_lines, files_of_source, is_here, load_corpora, require_corpus
from intruders.data.load_task import load_task, require_task
from intruders.errors import SettingError
from tests.json_lines import write_rows


@pytest.fixture(autouse=True)
def nothing_kept_of_the_hub_and_no_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INTRUDERS_DATA", raising=False)
    corpora._from_hub.cache_clear()


LINES = [" = Robert = \n", " Robert is an actor .\n", " He acts .\n"]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None, str]]:
    """What a hub is asked for, which has the same rows for each."""
    asked: list[tuple[str, str | None, str]] = []

    def load(path: str, configuration: str | None, *, split: str, streaming: bool) -> Any:
        assert streaming
        asked.append((path, configuration, split))
        return datasets.Dataset.from_dict({"text": LINES})

    monkeypatch.setattr(datasets, "load_dataset", load)
    return asked


def test_a_corpus_of_the_hub_is_read_once(asked: list[Any]) -> None:
    read = [load_corpora("c4", max_documents=count)[0].documents for count in (2, 2, 3, None)]
    assert read == [LINES[:2], LINES[:2], LINES, LINES]
    assert asked == [("allenai/c4", "en", "validation")]


def test_the_corpora_of_a_mixture_have_its_weights(asked: list[Any]) -> None:
    parts = load_corpora("roberta-pretraining", max_documents=2)
    weights = {"bookcorpus": 8, "wikipedia": 8, "cc-news": 76, "openwebtext": 38, "stories": 31}
    assert {part.name: part.weight for part in parts} == weights
    assert all(len(part.documents) == 2 for part in parts)


def test_the_lines_of_wikitext_2_are_one_text(asked: list[Any]) -> None:
    assert load_corpora("wikitext-2")[0].documents == ["".join(LINES).rstrip("\n")]
    assert asked == [("Salesforce/wikitext", "wikitext-2-raw-v1", "test")]


def test_pydoc_is_whole() -> None:
    from pydoc_data.topics import topics

    (corpus,) = load_corpora("pydoc")
    assert sorted(corpus.documents) == sorted(topics.values())


def test_a_file_whose_name_no_result_can_say_is_refused_before_the_work(tmp_path: Path) -> None:
    file = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")
    Path(file).write_text("some text")
    with pytest.raises(SettingError, match=r"^corpus '.*/caf\\udce9.txt' is not UTF-8.*; rename the file"):
        load_corpora(file)
    with pytest.raises(SettingError, match=r"^task '.*/caf\\udce9.txt' is not UTF-8.*; rename the file"):
        load_task(file)


def test_what_can_be_read_without_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.txt"
    file.write_text("some text")
    assert all(is_here(name) for name in ("pydoc", str(file), str(tmp_path), f"pydoc@0.5+{file}@0.5"))
    others = ("c4", "hub:owner/name", f"{file}@0.5+c4@0.5", str(tmp_path / "none.txt"))
    assert not any(is_here(name) for name in others)
    (tmp_path / "c4").mkdir()
    monkeypatch.setenv("INTRUDERS_DATA", str(tmp_path))
    assert [is_here(name) for name in ("c4", f"{file}@0.5+c4@0.5", "wikitext")] == [True, True, False]


def test_what_is_here_is_read_and_the_hub_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*arguments: object) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(corpora, "_from_hub", no_network)
    monkeypatch.setattr(hub_tasks, "loader_of_hub", no_network)
    file, empty = tmp_path / "a.txt", tmp_path / "b.txt"
    file.write_text("some text")
    empty.write_text(" ")
    for name in ("pydoc", "c4", "hub:owner/name", "roberta-pretraining", f"{file}@0.5+c4@0.5"):
        require_corpus(name)
    for name in ("pydok", str(empty), f"c4@0.5+{tmp_path / 'c.txt'}@0.5", f"{file}@0.5+c4@-1"):
        with pytest.raises(SettingError):
            require_corpus(name)
    for name in ("sst2", "word-problems"):
        require_task(name, Columns())
    (tmp_path / "sst2").mkdir()
    monkeypatch.setenv("INTRUDERS_DATA", str(tmp_path))
    with pytest.raises(SettingError, match=r"its local copy .* has no train file"):
        require_task("sst2", Columns())


@pytest.mark.parametrize("read", [load_corpora, require_corpus])
@pytest.mark.parametrize("name", ["", " ", "pydoc+", "+pydoc", "@0.5", "pydoc@0.5+@0.5"])
def test_a_nameless_part_is_no_folder(name: str, read: Callable[[str], object]) -> None:
    with pytest.raises(SettingError, match=re.escape(f"corpus {name!r} has a part without a name")):
        read(name)


def test_a_sample_is_drawn_by_seed() -> None:
    one, same, other = (load_corpora("pydoc", max_documents=9, seed=seed)[0].documents for seed in (1, 1, 2))
    assert one == same != other
    assert len(one) == 9


def test_a_long_text_is_cut_at_blank_lines_without_loss(tmp_path: Path) -> None:
    text = "\n \n".join(f"Paragraph {i}. " + "x" * (37 * i % 900) for i in range(60))
    documents = cut_at_blank_lines(text, characters=2000)
    assert len(documents) > 5
    assert all(len(document) >= 2000 for document in documents[:-1])
    assert re.split(r"\n\s*\n", text) == [part for document in documents for part in document.split("\n\n")]
    (tmp_path / "long.txt").write_text(text)
    assert load_corpora(str(tmp_path / "long.txt"))[0].documents == cut_at_blank_lines(text)


def test_files_rows_folders_and_mixtures(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("b", "a"):
        (tmp_path / "folder" / f"{name}.txt").write_text(f"text of {name}")
    rows = write_rows(tmp_path / "rows.jsonl", [{"text": f"row {i}"} for i in range(3)])
    assert load_corpora(str(tmp_path / "folder"))[0].documents == ["text of a", "text of b"]
    mixture = load_corpora(f"{rows}@0.7+{tmp_path / 'folder'}@0.3")
    assert [(corpus.weight, len(corpus.documents)) for corpus in mixture] == [(0.7, 3), (0.3, 2)]


def test_the_folder_of_a_data_set_is_read_by_its_shards(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_dict({"text": [f"row {i}" for i in range(7)], "id": list(range(7))})
    rows.save_to_disk(tmp_path / "saved", num_shards=2)
    datasets.DatasetDict(test=rows.select(range(2)), train=rows).save_to_disk(tmp_path / "splits")
    (tmp_path / "hub" / "data").mkdir(parents=True)
    (tmp_path / "hub" / "README.md").write_text("---\nlicense: mit\n---\n# Card")
    for shard in range(2):
        rows.shard(2, shard).to_parquet(tmp_path / "hub" / "data" / f"train-{shard:05}-of-00002.parquet")
    (tmp_path / "lines").mkdir()
    rows.shard(2, 0).to_json(tmp_path / "lines" / "a.jsonl")
    rows.shard(2, 1).to_json(tmp_path / "lines" / "b.jsonl.gz", compression="gzip")
    whole = list(datasets.load_from_disk(tmp_path / "saved")["text"])
    for folder in ("saved", "hub", "lines"):
        assert load_corpora(str(tmp_path / folder))[0].documents == whole
    assert load_corpora(str(tmp_path / "splits"))[0].documents == [*whole[:2], *whole]
    names = [file.name for file in files_of_source(tmp_path / "saved")]
    assert names == ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]


def test_an_arrow_file_is_a_stream_or_not(tmp_path: Path) -> None:
    table = pa.table({"text": ["one", "two"]})
    with pa.ipc.new_stream(tmp_path / "stream.arrow", table.schema) as stream:
        stream.write_table(table)
    with pa.ipc.new_file(tmp_path / "file.arrow", table.schema) as file:
        file.write_table(table)
    for name in ("stream.arrow", "file.arrow"):
        assert load_corpora(str(tmp_path / name))[0].documents == ["one", "two"]


def test_a_folder_says_what_it_leaves_out_and_what_it_may_have(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", [{"text": "row"}])
    (tmp_path / "a.txt").write_text("text of a")
    with pytest.warns(UserWarning, match=r"its 1 text file, without its 1 data file such as 'rows.jsonl'"):
        assert load_corpora(str(tmp_path))[0].documents == ["text of a"]
    (tmp_path / "none").mkdir()
    with pytest.raises(SettingError, match=r"none' is a folder without texts; expected text files .*; pass"):
        load_corpora(str(tmp_path / "none"))


def test_packed_texts_are_read_as_if_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "\n \n".join("wörd " * 900 + str(number) for number in range(3))
    (tmp_path / "c4").mkdir()
    packed = tmp_path / "c4" / "test.txt.gz"
    packed.write_bytes(gzip.compress(text.encode()))
    monkeypatch.setenv("INTRUDERS_DATA", str(tmp_path))
    for name in (str(packed), "c4"):
        assert load_corpora(name)[0].documents == cut_at_blank_lines(text)


def test_a_path_with_a_plus_is_a_corpus_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "c++").mkdir()
    name = str(tmp_path / "c++" / "notes.txt")
    Path(name).write_text("hello")
    for given, weight in ((name, 1.0), (f"{name}@0.25", 0.25)):
        (corpus,) = load_corpora(given)
        assert (corpus.name, corpus.documents, corpus.weight) == (name, ["hello"], weight)


def test_rows_without_a_text_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = tmp_path / "holes.jsonl"
    texts = ["Document 1", None, " ", "Document 2"]
    write_rows(rows, [{"title": "x"}, *({"text": text} for text in texts)])
    with pytest.warns(UserWarning, match="3 of 5 rows have no text and are left out"):
        assert load_corpora(str(rows))[0].documents == ["Document 1", "Document 2"]
    rows.write_text('{"text": ["a"]}\n')
    with pytest.raises(SettingError, match=r"column 'text' of line 1 of holes.jsonl is a list; expected"):
        load_corpora(str(rows))


def test_a_corpus_that_the_hub_does_not_give_is_named_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*given: Any, **more: Any) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr("datasets.load_dataset", offline)
    with pytest.raises(SettingError, match=r"^corpus 'wikitext-2': 'Salesforce/wikitext' cannot be loaded"):
        load_corpora("wikitext-2")
    with pytest.raises(SettingError, match=r"'sst2': 'nyu-mll/glue' cannot be loaded .* no route"):
        load_task("sst2")


def test_bad_corpora_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(" \n\n ")
    (tmp_path / "rows.csv").write_text("body\nx\n")
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    for name, said in {
        "nothing": "corpus 'nothing' is not known",
        str(tmp_path / "empty.txt"): "is empty",
        str(tmp_path / "rows.csv"): "column 'text' is not in rows.csv",
        str(tmp_path / "latin.txt"): "cannot be read as UTF-8",
        "pydoc@0": "weight 0",
    }.items():
        with pytest.raises(SettingError, match=re.escape(said)):
            load_corpora(name)


def test_a_local_copy_stands_in_for_a_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTRUDERS_DATA", str(tmp_path))
    (tmp_path / "wikitext2").mkdir()
    text = "\n \n".join(f" = Article {i} = \n \n" + "word " * 900 for i in range(3))
    (tmp_path / "wikitext2" / "test.txt").write_text(text)
    (corpus,) = load_corpora("wikitext-2")
    assert corpus.documents == cut_at_blank_lines(text)
    assert len(corpus.documents) == 3
    (tmp_path / "wikitext2" / "test.txt").write_text(text + "more")
    assert load_corpora("wikitext-2")[0].digest != corpus.digest
    (tmp_path / "c4").mkdir()
    with pytest.raises(SettingError, match=r"corpus 'c4': its local copy .*c4' has no file"):
        load_corpora("c4")
