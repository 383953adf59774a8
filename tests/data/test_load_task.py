"""The tasks: generated, of the installed documentation, and from local files in every format."""

import gzip
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from intruders.data.columns import Columns
from intruders.data.generated_tasks import word_problems
from intruders.data.load_task import described_task, load_task
from intruders.data.task import Conversation, Example
from intruders.errors import SettingError
from tests.json_lines import write_rows

_ROWS = [{"sentence": f'row {i} says "x', "label": str(i % 3)} for i in range(40)]


def says(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def test_word_problems_are_right_and_split_apart() -> None:
    task = word_problems()
    for example in task.train[:500]:
        steps = re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", example.target)
        assert 2 <= len(steps) <= 3
        for left, operator, right, result in steps:
            values = {"+": int(left) + int(right), "-": int(left) - int(right), "*": int(left) * int(right)}
            expected = int(left) / int(right) if operator == "/" else values[operator]
            assert expected == int(result) > 0
        # Each step goes on from the one before, the first from the story, and the last is the answer.
        assert re.search(r"has (\d+)", example.text)[1] == steps[0][0]  # type: ignore[index]
        assert [step[3] for step in steps[:-1]] == [step[0] for step in steps[1:]]
        assert example.target.endswith(f"The answer is {steps[-1][3]}.")
    stories = [example.text for split in (task.train, task.validation, task.test) for example in split]
    assert len(stories) == len(set(stories))
    assert word_problems().train == task.train != word_problems(1).train, "the seed alone decides"


def test_pydoc_topics_have_twelve_labels_and_disjoint_subtasks() -> None:
    task = load_task("pydoc-topics")
    assert len(task.labels) == 12
    parts = [load_task(f"pydoc-topics-{group}") for group in (1, 2, 3)]
    assert [len(part.labels) for part in parts] == [4, 4, 4]
    assert set().union(*(part.labels for part in parts)) == set(task.labels)
    for one in (task, *parts):
        sentences = [e.text for split in (one.train, one.validation, one.test) for e in split]
        assert len(sentences) == len(set(sentences)), "no sentence is in two splits or under two labels"
        assert {e.target for e in one.test} == set(one.labels)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_every_format_gives_the_same_rows(tmp_path: Path, ending: str, packed: bool) -> None:
    frame, file = pd.DataFrame(_ROWS), tmp_path / f"rows.{ending}"
    if ending == "jsonl":
        write_rows(file, _ROWS)
    elif ending == "json":
        file.write_text(json.dumps(_ROWS))
    elif ending == "csv":
        frame.to_csv(file, index=False)
    elif ending == "tsv":
        file.write_text("sentence\tlabel\n" + "".join(f"{r['sentence']}\t{r['label']}\n" for r in _ROWS))
    else:
        frame.to_parquet(file)
    if packed:
        file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file = file.with_name(f"{file.name}.gz")
    task = load_task(f"{file}?text=sentence&label=label")
    found = sorted((example.text, example.target) for example in task.train + task.validation)
    assert found == sorted((row["sentence"], row["label"]) for row in _ROWS)
    assert task.kind == "classification"
    assert task.labels == ["0", "1", "2"]
    assert len(task.validation) == 4


def test_columns_behind_the_name_pairs_and_no_header(tmp_path: Path) -> None:
    file = tmp_path / "pairs.tsv"
    file.write_text("".join(f"a{i}\tb{i}\t{'yes' if i % 2 else 'no'}\n" for i in range(20)))
    task = load_task(f"{file}?header=no&text=0,1&label=2&validation={file}")
    assert task.train == load_task(f"{file}?header=no&text=0&text=1&label=2&validation={file}").train
    assert len(task.train) == len(task.validation) == 20
    assert all(example.pair == example.text.replace("a", "b") for example in task.train)


@pytest.mark.parametrize("ordered", [[str(i) for i in range(12)], ["7", "10", "ab", "nan", "zh"]])
def test_labels_are_numbers_in_their_order_and_then_words(ordered: list[str], tmp_path: Path) -> None:
    """The code of a language is "nan"; what compares with nothing would be sorted anew in every process."""
    rows = [{"t": f"row {i}", "y": ordered[-(i % len(ordered))]} for i in range(60)]
    file = write_rows(tmp_path / "rows.jsonl", rows)
    assert load_task(f"{file}?text=t&label=y").labels == ordered


BAD = {
    "rows.csv": "sentence,label\na,x\nb,y\nc,x\n",
    "empty.csv": "sentence,label\n",
    "single.csv": "sentence,label\na,x\n",
    "other.csv": "sentence,label\nd,z\n",
    "broken.jsonl": '{"sentence": "a"\n',
    "one.csv": "sentence,label\na,x\nb,x\n",
}
NAMED = Columns(text=("sentence",), label="label")


@pytest.mark.parametrize(
    ("name", "columns", "said"),
    [
        ("rows.csv?text=body&label=label", Columns(), "'body' is not in rows.csv; it has 'sentence', 'lab"),
        ("empty.csv", NAMED, "train split is empty; expected at least one row; pass data with rows"),
        ("single.csv", NAMED, "its only row is taken for validation, which leaves none to train on; "),
        ("rows.csv?validation=other.csv", NAMED, "line 2 of other.csv (the validation split) has the label"),
        ("broken.jsonl", NAMED, "cannot be read as jsonl: line 1"),
        ("one.csv", NAMED, "expected two labels or more; pass rows of every label, and"),
        ("rows.csv", Columns(), "has the columns 'sentence', 'label'; expected prompt and completion, mess"),
        ("rows.csv", Columns(label="label"), "the columns named are label; expected text and label for"),
        ("rows.csv", Columns(prompt="a", completion="b", messages="c"), "are prompt, completion, messages;"),
        ("none.csv", NAMED, "does not exist"),
        ("word-problem", Columns(), "did you mean 'word-problems'"),
        ("rows.csv?colour=red", NAMED, "colour=red is not understood"),
        ("rows.csv?text=sentence&label=label&score=final", Columns(), "score is 'final'"),
    ],
)
def test_bad_data_is_named(
    name: str, columns: Columns, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for file, content in BAD.items():
        Path(file).write_text(content)
    with pytest.raises(SettingError, match=re.escape(said)):
        load_task(name, columns)


@pytest.mark.parametrize(
    ("row", "kind", "text", "target"),
    [
        ({"prompt": "2 + 2 is", "completion": " 4", "text": "no", "label": "no"}, "causal", "2 + 2 is", " 4"),
        ({"text": "good", "label": "yes", "prompt": "alone"}, "classification", "good", "yes"),
    ],
)
def test_columns_of_the_usual_names_need_not_be_named(
    row: dict[str, str], kind: str, text: str, target: str, tmp_path: Path
) -> None:
    rows = [{**row, key: row[key] + str(i)} for key in row for i in range(2)]
    file = write_rows(tmp_path / "rows.jsonl", rows)
    task = load_task(str(file))
    assert task.kind == kind
    assert {example.text for example in task.train} <= {text, f"{text}0", f"{text}1"}
    assert {example.target for example in task.train} <= {target, f"{target}0", f"{target}1"}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("short.tsv", "text\tlabel\na\tx\n\nbroken row\nb\ty\n", "line 4 has 1 cell, and line 1 has 2"),
        ("short.csv", 'text,label\n"two\nlines",x\nbroken row\nb,y\n', "line 4 has 1 cell, and line 1 has 2"),
        # pandas takes the first cell of such rows for their name, and every other for its neighbor's.
        ("long.csv", "text,label\na,x,\nb,y,\n", "line 2 has 3 cells, and line 1 has 2"),
        # A quotation mark that is not closed takes what follows into its cell, to the next one or to the end.
        ("open.csv", 'label,text\n1,fine\n0,"open\n1,three\n', "line 3: unexpected end of data; close"),
        ("open.csv", 'label,text\n0,"open\n1,"three"\n0,four\n', "line 2: ',' expected after '\"'; close"),
        ("empty.tsv", "text\tlabel\na\tx\nb\t\n", "column 'label' of line 3 of empty.tsv is empty"),
        ("hole.jsonl", '{"text": "a", "label": "x"}\n\n{"text": "b"}\n', "'label' of line 3 of hole.jsonl"),
        ("null.jsonl", '{"text": null, "label": "x"}\n', "'text' of line 1 of null.jsonl is empty"),
        ("list.json", '[{"text": "a", "label": ["x"]}]', "'label' of row 1 of list.json is a list; expected"),
        ("deep.jsonl", '{"text": {"a": 1}, "label": "x"}\n', "'text' of line 1 of deep.jsonl is an object"),
    ],
)
def test_a_row_that_is_not_whole_is_named(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(SettingError, match=re.escape(said)):
        load_task(str(tmp_path / name), Columns(text=("text",), label="label"))


def test_a_row_keeps_its_line_through_shuffling_and_splitting(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps({"p": f"row {i}", "c": "x"}) + "\n" for i in range(50)))
    task = load_task(f"{file}?prompt=p&completion=c")
    for example in task.train + task.validation:
        number = int(example.text.removeprefix("row "))
        assert example.origin == f"line {2 * number + 1} of rows.jsonl"
    # It is no part of the content: the same rows elsewhere are the same data.
    (tmp_path / "other.jsonl").write_text(file.read_text().replace("\n\n", "\n"))
    assert load_task(f"{tmp_path / 'other.jsonl'}?prompt=p&completion=c").fingerprint() == task.fingerprint()


def test_conversations_are_prompt_and_answer(tmp_path: Path) -> None:
    user, assistant = (says(role, f"the {role} speaks") for role in ("user", "assistant"))
    apart, whole = tmp_path / "apart.jsonl", tmp_path / "whole.parquet"
    apart.write_text((json.dumps({"prompt": [user], "completion": [assistant]}) + "\n" * 2) * 10)
    pd.DataFrame({"messages": [[user, assistant]] * 10}).to_parquet(whole)
    talk = Conversation((("user", "the user speaks"),), (("assistant", "the assistant speaks"),))
    for name in (f"{apart}?prompt=prompt&completion=completion", f"{whole}?messages=messages"):
        task = load_task(name)
        example = task.train[0]
        assert example.conversation == talk
        assert example.target == "the assistant speaks"
    text = write_rows(tmp_path / "text.jsonl", [{"p": "the user speaks", "c": "the assistant speaks"}] * 10)
    assert load_task(f"{text}?prompt=p&completion=c").fingerprint() != task.fingerprint()


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([says("user", "u")], "does not end with an answer to a prompt"),
        ([says("user", "u"), says("user", "v")], "a last one with the role 'assistant'"),
        ([says("user", None), says("assistant", "a")], "message 1 in column 'm' of line 1 of chat.jsonl is"),
        ([says("assistant", "a", tool_calls=[1])], "and nothing else; leave out rows with tool calls or"),
        ([says("user", []), says("assistant", "a")], "message 1 in column 'm'"),
        (["u", "a"], "message 1 in column 'm' of line 1"),
        ("u", "column 'm' of line 1 of chat.jsonl is a value of type str; expected a list of messages"),
    ],
)
def test_a_conversation_that_cannot_be_used_is_named(tmp_path: Path, messages: Any, said: str) -> None:
    file = write_rows(tmp_path / "chat.jsonl", [{"m": messages}])
    with pytest.raises(SettingError, match=re.escape(said)):
        load_task(f"{file}?messages=m")


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_parts_of_text_are_text_and_rows_with_others_can_be_left_out(suffix: str, tmp_path: Path) -> None:
    def parts(*texts: str) -> list[dict[str, str]]:
        return [{"type": "text", "text": text} for text in texts]

    talk = [{"role": "user", "content": parts("ad", "d 1")}, {"role": "assistant", "content": parts("2")}]
    image = [{"role": "user", "content": [*parts("see"), {"type": "image", "url": "a.png"}]}, talk[1]]
    call = [talk[0], {"role": "assistant", "content": parts("2"), "tool_calls": [{"name": "add"}]}]
    asked = [talk[0], {"role": "assistant", "tool_calls": [{"name": "add"}]}, talk[1]]
    file = tmp_path / f"chat{suffix}"
    rows = [{"messages": messages} for messages in [talk, image, talk, call, asked, talk]]
    if suffix == ".jsonl":
        write_rows(file, rows)
    else:
        pd.DataFrame(rows).to_parquet(file)
    with pytest.raises(SettingError, match=r"message 1 in .* (line|row) 2 of chat.* --drop-not-text"):
        load_task(str(file))
    said = r"^3 of 6 rows of 'chat\.\w+' have tool calls or images, .*\((line|row) 2 of chat"
    for name, columns in ((str(file), Columns(drop_not_text=True)), (f"{file}?not-text=drop", Columns())):
        with pytest.warns(UserWarning, match=said):
            task = load_task(name, columns)
        kept = Conversation((("user", "add 1"),), (("assistant", "2"),))
        assert [example.conversation for example in [*task.train, *task.validation]] == [kept] * 3
        assert described_task(name, columns) == f"{file}?not-text=drop"


def test_hub_tasks_read_their_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    glue = {"sentence1": "e", "sentence2": "f"}
    glue |= {"premise": "p", "hypothesis": "h", "question1": "q", "question2": "r", "sentence": "s"}
    social = {"context": "c", "question": "q", "answerA": "a", "answerB": "b", "answerC": "d"}
    choice = {"sentence": "s _", "option1": "o", "option2": "p"}
    claim = {"claim": "c", "evidence": [["Page", "3", "e"]]}
    rows = {
        "nyu-mll/glue": [glue | {"label": 0}, glue | {"label": 1}],
        "allenai/social_i_qa": [social | {"label": "1\n"}, social | {"label": "2\n"}],
        "allenai/winogrande": [choice | {"answer": "1"}, choice | {"answer": "2"}],
        "fancyzhang/ag_news": [{"text": "n", "label": 3}, {"text": "m", "label": 2}],
        "copenlu/fever_gold_evidence": [claim | {"label": "SUPPORTS"}, claim | {"label": "REFUTES"}],
        "meta-math/MetaMathQA": [{"query": "q", "response": "The answer is: 3"}],
        "ise-uiuc/Magicoder-Evol-Instruct-110K": [{"instruction": "i", "response": "r"}],
        "timdettmers/openassistant-guanaco": [{"text": "### Human: h### Assistant: a"}],
    }

    def load(path: str, configuration: str | None, *, split: str, revision: str | None) -> list[Any]:
        return rows[path] * 20

    monkeypatch.setattr("datasets.load_dataset", load)
    names = ["mnli", "qqp", "sst2", "siqa", "winogrande", "fever", "metamathqa", "magicoder", "guanaco"]
    names += ["rte", "agnews"]
    found = {name: load_task(name) for name in names}
    assert Example("p", "1", "h") in found["mnli"].train
    assert Example("c q", "2", "1: a 2: b 3: d") in found["siqa"].train
    assert Example("s _", "1", "1: o 2: p") in found["winogrande"].train
    assert Example("c", "SUPPORTS", "e") in found["fever"].train
    assert Example("e", "1", "f") in found["rte"].train
    assert Example("n", "3") in found["agnews"].test
    assert found["agnews"].source == "hub fancyzhang/ag_news"
    assert found["metamathqa"].score == "final-number"
    assert found["guanaco"].train[0] == Example("### Human: h### Assistant:", " a")


@pytest.fixture
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INTRUDERS_DATA", str(tmp_path))
    for name in ("sst2", "agnews", "rte"):
        (tmp_path / name).mkdir()
    rows = "".join(f"row {i}\t{i % 2}\n" for i in range(30))
    (tmp_path / "sst2" / "train.tsv").write_text("sentence\tlabel\n" + rows)
    (tmp_path / "sst2" / "dev.tsv").write_text('sentence\tlabel\na "quote\t1\nb\t0\n')
    news = ("World", "Sports", "Business", "Sci/Tech")
    (tmp_path / "agnews" / "train.tsv").write_text("".join(f"row {i}\t{news[i % 4]}\n" for i in range(40)))
    pairs = "".join(f"{i}\tp{i}\th{i}\t{'entailment' if i % 2 else 'not_entailment'}\n" for i in range(8))
    (tmp_path / "rte" / "train.tsv").write_text("index\tsentence1\tsentence2\tlabel\n" + pairs)
    (tmp_path / "rte" / "dev.jsonl").write_text('{"sentence1": "p", "sentence2": "h", "label": 1}\n')
    return tmp_path


def test_local_copies_stand_in_for_public_sets(copies: Path) -> None:
    sst2 = load_task("sst2")
    assert (len(sst2.train), len(sst2.validation), len(sst2.test)) == (30, 2, 0)
    assert Example('a "quote', "1") in sst2.validation
    news = load_task("agnews")  # no header, words for labels, no validation split
    assert (len(news.train), len(news.validation)) == (38, 2)
    assert Example("row 6", "2") in news.train + news.validation
    rte = load_task("rte")
    assert Example("p3", "0", "h3") in rte.train
    assert Example("p4", "1", "h4") in rte.train
    assert rte.validation == [Example("p", "1", "h")]


def test_a_copys_source_is_the_digest_of_its_files(copies: Path) -> None:
    before = load_task("sst2")
    digest = hashlib.sha256()
    for name in ("train.tsv", "dev.tsv"):
        digest.update(hashlib.sha256((copies / "sst2" / name).read_bytes()).digest())
    assert before.source == f"copy {digest.hexdigest()[:12]}"
    with (copies / "sst2" / "train.tsv").open("a") as file:
        file.write("another row\t0\n")
    after = load_task("sst2")
    assert after.source != before.source
    assert len(after.train) == len(before.train) + 1


def test_a_copy_that_cannot_be_used_is_named(copies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (copies / "rte" / "dev.tsv").write_text("sentence1\tsentence2\tlabel\n")
    with pytest.raises(SettingError, match=r"has dev\.tsv and dev\.jsonl|dev\.jsonl and dev\.tsv"):
        load_task("rte")
    (copies / "agnews" / "train.tsv").rename(copies / "agnews" / "training.tsv")
    with pytest.raises(SettingError, match=r"agnews' has no train file; expected train\.tsv"):
        load_task("agnews")
    (copies / "sst2" / "train.tsv").write_text("text\tlabel\tmore\na\t1\tx\n")
    with pytest.raises(SettingError, match=r"sst2/train\.tsv' does not have the columns .*sentence"):
        load_task("sst2")
    (copies / "sst2" / "train.tsv").write_text("text\tlabel\na\t1\n")
    with pytest.raises(SettingError, match=r"has the label 'label'; expected negative, positive, or 0 to 1"):
        load_task("sst2")
    monkeypatch.setenv("INTRUDERS_DATA", str(copies / "none"))
    with pytest.raises(SettingError, match=r"INTRUDERS_DATA is .*none', which is not a folder"):
        load_task("sst2")
