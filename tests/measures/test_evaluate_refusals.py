"""A model is scored as what it was trained for, what can be known first is checked first, and nothing is lost."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoTokenizer, BertForSequenceClassification

from intruders.errors import CheckpointError, IntrudersError, PairingError, SettingError
from intruders.measures import evaluate as evaluating
from intruders.measures.evaluate import evaluate
from intruders.measures.measure_settings import HarnessSettings, LossSettings, ScoreSettings
from intruders.reports.evaluation import measure_lines
from tests.checkpoints.models import change_config, with_lora
from tests.commands import in_this_process
from tests.json_lines import write_rows
from tests.measures.conftest import killed_before_it_is_saved
from tests.tiny import save_llama


def _on(place: Path, name: str) -> ScoreSettings:
    columns = "prompt=q&completion=a" if name == "sums.jsonl" else "text=text&label=label"
    return ScoreSettings(tasks=(f"{place / name}?{columns}",), max_new_tokens=4)


def _text(place: Path, name: str = "notes.txt") -> LossSettings:
    return LossSettings((str(place / name),), max_tokens=60)


@pytest.mark.parametrize(
    ("model", "data", "said"),
    [
        ("completer", "words.tsv", "was trained on completions and has no trained classification head"),
        ("bert", "words.tsv", "is a language model or an encoder and has no trained classification head"),
        ("bert-lora", "words.tsv", "trained on 2 labels"),
        ("classifier", "sums.jsonl", "was trained as a classifier and writes no text"),
        ("bert", "sums.jsonl", "is a masked language model, which cannot complete the prompts"),
    ],
)
def test_a_model_of_another_kind_is_refused_before_it_is_loaded(
    model: str, data: str, said: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluating, "open_language_model", _nothing_is_opened)
    monkeypatch.setattr(evaluating, "open_for_task", _nothing_is_opened)
    with pytest.raises(SettingError, match=said) as raised:
        evaluate(str(place / model), losses=_text(place), scores=_on(place, data))
    assert "\n" not in str(raised.value)


def _nothing_is_opened(*given: Any) -> Any:
    raise AssertionError(f"{given} is opened")


def test_a_sum_is_refused_with_the_command_that_writes_it(place: Path) -> None:
    base, tuned = str(place / "llama"), str(place / "completer")
    text = LossSettings((str(place / "one.txt"),), max_tokens=32)
    for given in (f"{tuned}@0.5", f"{tuned}@0.5+{tuned}@0.5"):
        with pytest.raises(CheckpointError, match="scale BASE SUM --at 1 --out FOLDER"):
            evaluate(given, base=base, losses=text)


@pytest.mark.parametrize(("base", "data"), [("llama", "sums.jsonl"), ("bert", "words.tsv")])
def test_a_tokenizer_of_another_model_is_refused(base: str, data: str, place: Path, tmp_path: Path) -> None:
    """The word "film" and "+1" are tokens behind the last row of the embedding."""
    tuned = "completer" if base == "llama" else "classifier"
    shutil.copytree(place / base, tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    known = len(tokenizer)
    assert tokenizer.add_tokens(["+1", "film", "word"]) == 3
    tokenizer.save_pretrained(tmp_path / "base")
    shutil.copytree(place / tuned, tmp_path / "tuned", ignore=shutil.ignore_patterns("*token*"))
    said = rf"makes token 10\d, and the model has {known} tokens; expected the tokenizer"
    given = {"losses": _text(place), "scores": _on(place, data)}
    for name in given:
        with pytest.raises(SettingError, match=said):
            evaluate(str(tmp_path / "tuned"), base=str(tmp_path / "base"), **{name: given[name]})


def test_an_adapter_that_names_no_base_is_refused(place: Path, tmp_path: Path) -> None:
    shutil.copy(place / "completer" / "adapter_config.json", tmp_path)
    change_config(tmp_path, base_model_name_or_path=None)
    with pytest.raises(CheckpointError, match="does not name its base; pass it with --base"):
        evaluate(str(tmp_path), losses=_text(place))


def test_an_adapter_without_its_head_is_refused(place: Path, tmp_path: Path) -> None:
    headless = shutil.copytree(place / "classifier", tmp_path / "headless")
    file = headless / "adapter_model.safetensors"
    kept = {name: tensor for name, tensor in load_file(file).items() if "classifier" not in name}
    save_file(kept, file)
    with pytest.raises(CheckpointError, match=r"no trained weights for 'classifier\.bias'"):
        evaluate(str(headless), scores=_on(place, "words.tsv"))


def test_the_order_of_classes_is_not_guessed(place: Path, tmp_path: Path) -> None:
    elsewhere = shutil.copytree(place / "classifier", tmp_path / "elsewhere")
    (elsewhere / "run.json").unlink()
    with pytest.raises(CheckpointError, match="the order of 'neg', 'pos' is not guessed"):
        evaluate(str(elsewhere), scores=_on(place, "words.tsv"))
    evaluate(str(elsewhere), scores=_on(place, "numbers.tsv"))  # a number is that of its class
    # A base that names its classes says what the outputs are, here the other way round.
    named = shutil.copytree(place / "bert", tmp_path / "named")
    config = AutoConfig.from_pretrained(named)
    config.id2label, config.label2id = {0: "pos", 1: "neg"}, {"pos": 0, "neg": 1}
    config.save_pretrained(named)
    turned = evaluate(str(elsewhere), base=str(named), scores=_on(place, "words.tsv")).scores[0].right
    recorded = evaluate(str(place / "classifier"), scores=_on(place, "words.tsv")).scores[0].right
    assert turned == [not right for right in recorded]
    # A whole classifier of which nobody named the outputs.
    whole = tmp_path / "whole"
    BertForSequenceClassification.from_pretrained(place / "bert", num_labels=2).save_pretrained(whole)
    AutoTokenizer.from_pretrained(place / "bert").save_pretrained(whole)
    with pytest.raises(CheckpointError, match="is not guessed"):
        evaluate(str(whole), scores=_on(place, "words.tsv"))


def test_a_task_need_not_have_rows_of_every_class(place: Path, tmp_path: Path) -> None:
    """A class number is that of an output, of a model as of an adapter, whose base does not know how many there are."""
    tokenizer = AutoTokenizer.from_pretrained(place / "bert")
    whole = BertForSequenceClassification.from_pretrained(place / "bert", num_labels=3)
    heads = ["classifier", "pooler"]
    tuned = with_lora(whole, target_modules=["query"], modules_to_save=heads, task_type="SEQ_CLS")
    tuned.save_pretrained(tmp_path / "tuned")
    with torch.no_grad():
        texts = (tokenizer(f"film {i}", return_tensors="pt") for i in range(30))
        answers = [int(tuned.eval()(**text).logits.argmax()) for text in texts]
    rows = [{"text": f"film {i}", "label": 2 if answers[i] == 2 else 0} for i in range(30)]
    rows[0]["label"] = 0 if answers[0] == 2 else 2  # two labels in any case
    file = write_rows(tmp_path / "rows.jsonl", rows)
    above = [row | {"label": max(row["label"], 1)} for row in rows]
    from_one = write_rows(tmp_path / "from_one.jsonl", above)
    merged = tuned.merge_and_unload()
    for saved in (merged, tokenizer):
        saved.save_pretrained(tmp_path / "merged")
    scores = ScoreSettings(tasks=(f"{file}?text=text&label=label&test={file}",))
    for model in ("tuned", "merged"):
        found = evaluate(str(tmp_path / model), scores=scores).scores[0]
        by_row = dict(zip((row["text"] for row in rows), found.right or [], strict=True))
        assert by_row == {row["text"]: answers[i] == row["label"] for i, row in enumerate(rows)}
        # Without rows of class 0 the numbers may count from 1, and an accuracy would be of other classes.
        one = ScoreSettings(tasks=(f"{from_one}?text=text&label=label&test={from_one}",))
        with pytest.raises(CheckpointError, match="class numbers 0 to 2, with rows of class 0"):
            evaluate(str(tmp_path / model), scores=one)


def test_the_wrong_base_is_refused_or_noted(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PairingError, match=r"changes 'model\.layers\.0', which base .* does not have"):
        evaluate(str(place / "completer"), base=str(place / "gpt2"), losses=_text(place))
    copy = shutil.copytree(place / "llama", tmp_path / "copy")
    same = evaluate(str(place / "completer"), base=str(copy), losses=_text(place))
    assert same.notes == []  # the same weights by another name
    save_llama(tmp_path / "other", positions=256)
    other = evaluate(str(place / "completer"), base=str(tmp_path / "other"), losses=_text(place))
    (note,) = other.to_document()["notes"]
    assert "names" in note
    assert measure_lines(note) == [f"note: {note}"]
    given: dict[str, Any] = {"base": str(tmp_path / "other"), "losses": _text(place), "out": tmp_path / "out"}
    with killed_before_it_is_saved():
        evaluate(str(place / "completer"), **given)
    monkeypatch.setattr(evaluating, "losses_by_corpus", None)  # nothing is read again
    assert evaluate(str(place / "completer"), **given).notes == other.notes


def test_a_wrong_task_or_folder_is_found_before_a_model_is_opened(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    into: dict[str, Any] = {"losses": _text(place), "out": tmp_path}
    not_ours = r"is not empty and not an evaluation: it contains 'notes\.txt'"
    monkeypatch.setattr(evaluating, "open_language_model", _nothing_is_opened)
    empty, harness = replace(_on(place, "sums.jsonl"), split="test"), HarnessSettings(lm_eval=("arc_easy",))
    home, named = "~/no-such-folder", re.escape(str(Path("~/no-such-folder").expanduser()))
    of_half: dict[str, Any] = {"reported_half": True}
    for given, said in [
        ({}, "nothing to measure"),
        ({"losses": _text(place), "scores": empty}, r"the test split of task 'sums\.jsonl' is empty"),
        ({"scores": replace(empty, split="validation")} | of_half, "split is 'validation', and the reported"),
        ({"harness": harness} | of_half, "lm_eval is 'arc_easy', whose examples have no reported half"),
        (
            {"harness": replace(harness, lm_eval_include=home)},
            f"'{named}', which is not a folder; .*; pass its",
        ),
        ({"losses": _text(place, "one.txt")} | of_half, r"one\.txt' has 1 document; expected 2 or more"),
        (into, not_ours),
        (into | {"force": True}, not_ours),
    ]:
        with pytest.raises(SettingError, match=said):
            evaluate(str(place / "completer"), **given)


def test_what_was_measured_is_told_and_kept_when_something_else_fails(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*given: Any, **more: Any) -> Any:
        raise IntrudersError("the score fails")

    command = (
        "evaluate", str(place / "completer"), "--base", str(place / "llama"), "--loss-on", str(place / "notes.txt"),
        "--max-tokens", "60", "--task", f"{place}/sums.jsonl?prompt=q&completion=a", "--max-new-tokens", "4",
        "--out", str(tmp_path / "out"),
    )  # fmt: skip
    with monkeypatch.context() as patched:
        patched.setattr(evaluating, "graded", fails)
        stopped = in_this_process(*command)
    assert stopped.returncode == 2
    assert "the score fails" in stopped.stderr
    assert stopped.stdout.startswith("cross-entropy on")
    assert not (tmp_path / "out" / "evaluation.json").exists()
    # The same command goes on from there: no text is read again.
    with monkeypatch.context() as patched:
        patched.setattr(evaluating, "losses_by_corpus", fails)
        done = in_this_process(*command)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(stopped.stdout)
    written = {file.name for file in (tmp_path / "out").iterdir()} - {".lock"}
    assert written == {"documents.parquet", "evaluation.json", "examples.parquet"}
    # A second evaluation does not replace the first.
    before = (tmp_path / "out" / "evaluation.json").read_bytes()
    again = in_this_process(*command)
    assert again.returncode == 2
    assert "already has an evaluation; choose another folder, or pass --force to replace it" in again.stderr
    assert (tmp_path / "out" / "evaluation.json").read_bytes() == before
    assert in_this_process(*command, "--force").returncode == 0


def test_what_was_kept_is_of_the_same_weights_and_settings(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped evaluation, and then another base in the same place, or other settings: all is measured anew."""
    base, out = tmp_path / "base", tmp_path / "out"
    shutil.copytree(place / "llama", base)
    given: dict[str, Any] = {"base": str(base), "losses": _text(place), "out": out, "force": True}
    read: list[int] = []
    losses = evaluating.losses_by_corpus
    monkeypatch.setattr(evaluating, "losses_by_corpus", lambda *all_: read.append(1) or losses(*all_))

    def stopped(**more: Any) -> int:
        read.clear()
        with killed_before_it_is_saved():
            evaluate(str(place / "completer"), **given | more)
        return len(read)

    assert stopped() == 2
    assert stopped() == 0
    # A text is found by its documents, whatever it is called.
    monkeypatch.chdir(place)
    copy = str(shutil.copy(place / "notes.txt", tmp_path / "copy.txt"))
    names = ("./notes.txt", str(place / "notes.txt"), copy)
    assert stopped(losses=replace(_text(place), loss_on=names)) == 0
    assert stopped(losses=replace(_text(place), window=32)) == 2
    assert stopped(seed=1) == 2
    weights = load_file(base / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"] += 0.1
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    assert stopped() == 2


def test_a_model_that_cannot_be_read_leaves_no_folder(place: Path, tmp_path: Path) -> None:
    """`finetune --out run` refuses a folder that is not empty, so a refused `evaluate` must not make one."""
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(place / "llama" / name, tmp_path / name)
    text = LossSettings(loss_on=("pydoc",), max_documents=1, max_tokens=32)
    out = tmp_path / "run" / "evaluation"
    with pytest.raises(IntrudersError, match="no file named"):
        evaluate(str(tmp_path), losses=text, out=out)
    assert not out.exists()
    evaluate(str(place / "llama"), losses=text, out=out)
    with pytest.raises(IntrudersError, match="no file named"):
        evaluate(str(tmp_path), losses=text, out=out, force=True)
    assert (out / "evaluation.json").is_file()


def test_one_document_has_no_interval(place: Path) -> None:
    found = evaluate(str(place / "completer"), base=str(place / "llama"), losses=_text(place, "one.txt"))
    lines = measure_lines(found.losses[0])
    assert not any("inf" in line for line in lines)
    assert "  one document has no confidence interval" in lines


def test_a_text_longer_than_the_context_gets_no_warning(place: Path) -> None:
    done = in_this_process("evaluate", str(place / "gpt2"), "--loss-on", str(place / "notes.txt"))
    assert done.returncode == 0
    assert "longer than" not in done.stderr


def test_a_folder_of_checkpoints_is_answered_with_their_names(tmp_path: Path) -> None:
    for number in (20, 100):
        (tmp_path / "run" / f"checkpoint-{number}").mkdir(parents=True)
        (tmp_path / "run" / f"checkpoint-{number}" / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="'checkpoint-20', 'checkpoint-100'; pass one of these"):
        evaluate(str(tmp_path / "run"), losses=LossSettings(loss_on=("pydoc",)))
