"""Fine-tuned models of every kind, measured; against the libraries' own merged models.

Models that TRL taught to chat are against TRL's own loss and transformers' greedy generation. Models of the hub are
measured as the same files in a folder.
"""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from intruders.checkpoints.writing.training_record import FinetunedFolder, keep_training
from intruders.data.columns import Columns
from intruders.data.load_task import load_task
from intruders.errors import SettingError
from intruders.measures import evaluate as evaluating
from intruders.measures.evaluate import evaluate
from intruders.measures.evaluation import Evaluation
from intruders.measures.harness import check_harness
from intruders.measures.measure_settings import HarnessSettings, LossSettings, ScoreSettings
from intruders.measures.text_loss import text_losses
from intruders.models.answers import graded
from intruders.models.loading import load_tokenizer
from intruders.models.tuned_model import OpenedModel, can_go_on, open_language_model
from tests.chat_models import CHAT_SHAPES, save_chat_model, trl_trainer
from tests.checkpoints.models import change_config, with_lora
from tests.experiments.healed_models import adapter_of
from tests.hub_cache import hub_with_base, keep, snapshot
from tests.json_lines import write_rows
from tests.measures.conftest import killed_before_it_is_saved, run
from tests.measures.harness_task import write_harness_task
from tests.tiny import save_bert, save_llama, save_roberta, with_rounded


def test_the_steps_of_a_series(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each beside the base, which is opened once, and beside the one before, by transformers' own losses of each."""
    base, tuned = place / "llama", place / "completer"
    merged, rounded = tmp_path / "merged", tmp_path / "rounded"
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tuned).merge_and_unload()
    model.save_pretrained(merged)
    tokenizer = load_tokenizer(str(base))
    tokenizer.save_pretrained(merged)
    with_rounded(merged, rounded, steps=1)
    opened: list[str] = []
    language = evaluating.open_language_model

    def counting(source: str, *given: Any, **named: Any) -> Any:
        opened.append(source)
        return language(source, *given, **named)

    monkeypatch.setattr(evaluating, "open_language_model", counting)
    texts = LossSettings((str(place / "texts"),))
    result = evaluate(tuned, base=base, also=[merged, rounded], losses=texts, out=tmp_path / "out")
    assert opened == [str(base), str(merged), str(rounded)]  # the adapter is put on the open base
    documents = [(place / "texts" / f"{name}.txt").read_text() for name in "abc"]
    sums = [
        text_losses(OpenedModel(AutoModelForCausalLM.from_pretrained(folder), tokenizer, 512), documents)
        for folder in (base, merged, merged, rounded)
    ]
    steps = [result, *result.also]
    for step, now, before in zip(steps, sums[1:], sums, strict=False):
        (loss,) = step.losses
        change = float((now.sums - sums[0].sums).sum() / now.tokens.sum())
        own = float((now.sums - before.sums).sum() / now.tokens.sum())
        assert loss.loss.estimate == pytest.approx(now.mean, rel=1e-5)
        assert loss.difference.estimate == pytest.approx(change, abs=1e-6)
        assert (loss.own_part or loss.difference).estimate == pytest.approx(own, abs=1e-6)
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["also"][1]["model"] == str(rounded)
    assert Evaluation.load(tmp_path / "out").to_document() == result.to_document()
    table = pd.read_parquet(tmp_path / "out" / "documents.parquet")
    assert table["step"].tolist() == [0] * 3 + [1] * 3 + [2] * 3


@pytest.mark.parametrize("save", [save_roberta, save_llama])
def test_a_classifier_of_another_trainer_is_measured_under_its_bases_head(save: Any, tmp_path: Path) -> None:
    """It has no record of its labels, of which a loss on text needs none."""
    base = save(tmp_path / "base")
    whole = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
    targets = ["query"] if save is save_roberta else ["q_proj"]
    tuned = with_lora(whole, target_modules=targets, task_type="SEQ_CLS")
    tuned.save_pretrained(tmp_path / "tuned")
    merged = tuned.merge_and_unload().base_model
    kind: Any = AutoModelForMaskedLM if save is save_roberta else AutoModelForCausalLM
    by_hand = kind.from_pretrained(base)
    by_hand.base_model.load_state_dict(merged.state_dict(), strict=False)
    tokenizer = load_tokenizer(str(base))
    ids = torch.tensor([tokenizer("Some words of text.")["input_ids"]])
    opened: Any = open_language_model(str(tmp_path / "tuned"), str(base)).model
    with torch.no_grad():
        torch.testing.assert_close(opened.eval()(ids).logits, by_hand.eval()(ids).logits)


@pytest.mark.parametrize("run", ["bert-lora", "bert-full"])
def test_a_classifier_is_scored_and_measured_under_its_bases_head(run: str, place: Path) -> None:
    rows = place / "letters.tsv"
    found = evaluate(
        str(place / run),
        base=str(place / "bert"),
        losses=LossSettings((str(place / "texts"),)),
        scores=ScoreSettings(tasks=(f"{rows}?text=text&label=label&test={rows}",)),
    )
    assert found.scores[0].split == "test"
    assert found.scores[0].accuracy.estimate == 1.0
    assert found.scores[0].accuracy.low < 1.0
    assert found.losses[0].losses[0].measure == "pseudo-loss"
    # By hand: the encoder that was trained, put under the head of the base.
    by_hand = AutoModelForMaskedLM.from_pretrained(place / "bert")
    if run == "bert-full":
        encoder = AutoModel.from_pretrained(place / run, add_pooling_layer=False)
    else:
        whole = AutoModelForSequenceClassification.from_pretrained(place / "bert", num_labels=2)
        encoder = PeftModel.from_pretrained(whole, place / run).merge_and_unload().bert
    by_hand.bert.load_state_dict(encoder.state_dict(), strict=False)
    tokenizer = AutoTokenizer.from_pretrained(place / "bert")
    documents = [(place / "texts" / f"{name}.txt").read_text() for name in "abc"]
    expected = text_losses(OpenedModel(by_hand, tokenizer, 128, is_masked=True), documents).mean
    assert found.losses[0].loss.estimate == pytest.approx(expected, rel=1e-5)
    assert found.losses[0].difference.estimate != 0


def test_a_local_task_of_the_harness(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval")
    from lm_eval.tasks import TaskManager

    # Of the harness's 13,000 files of tasks, which it reads one by one, those of the one that is asked for.
    manager = sys.modules[TaskManager.__module__]
    tasks, own = tmp_path / "tasks", tmp_path / "own"
    shutil.copytree(Path(str(manager.__file__)).parent / "hellaswag", tasks / "hellaswag")
    monkeypatch.setattr(manager, "__file__", str(tasks / "manager.py"))
    own.mkdir()
    targets = {f"{number}+1=": number % 4 for number in range(12)}
    write_harness_task(own, "plus_one", "1234", targets)
    found = evaluate(str(place / "completer"), harness=HarnessSettings(("plus_one",), str(own)))
    (score,) = found.harness
    assert (score.task, score.metric) == ("plus_one", "acc")
    assert capsys.readouterr().err == ""  # no terminal, no bars
    # By hand: the choice with the highest log-likelihood after the question and the space that the harness puts there.
    opened = open_language_model(str(place / "completer"))
    right = 0
    for text, target in targets.items():
        ids = torch.tensor([opened.tokenizer(f"{text} ")["input_ids"]])
        with torch.no_grad():
            logits = opened.model(input_ids=ids).logits[0, -1]
        choices = [opened.tokenizer(choice)["input_ids"][0] for choice in "1234"]
        right += int(logits[choices].argmax()) == target
    assert 0 < right < len(targets), "the case shows something"
    assert score.value == pytest.approx(right / len(targets))
    check_harness(HarnessSettings(("plus_one", "hellaswag"), str(own)))  # one's own beside the harness's
    # A task is looked up before a model is opened.
    monkeypatch.setattr(evaluating, "open_language_model", None)
    unknown = HarnessSettings(("no-such-task",), str(own))
    with pytest.raises(SettingError, match="no task 'no-such-task'"):
        evaluate(str(place / "completer"), losses=LossSettings((str(place / "texts"),)), harness=unknown)


def test_a_run_is_scored_on_the_rows_that_it_held_out(place: Path, tmp_path: Path) -> None:
    rows, out = str(place / "sums.jsonl"), str(tmp_path / "run")
    read: dict[str, Any] = {"prompt": "q", "completion": "a", "max_new_tokens": 8}
    run(place, "llama", out, rows, data_seed=3, **read)
    assert FinetunedFolder.of(out).data_seed == 3
    assert FinetunedFolder.of(str(place / "llama")).data_seed == 0
    trained = {example.text for example in load_task(rows, Columns(prompt="q", completion="a"), 3).train}
    seen = []

    def spy(opened: Any, task: Any, examples: Any, **more: Any) -> Any:
        seen.extend(example.text for example in examples)
        return graded(opened, task, examples, **more)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("intruders.measures.evaluate.graded", spy)
        evaluate(out, scores=ScoreSettings(tasks=(rows,), **read))
    assert len(seen) == 2
    assert not trained & set(seen)


def test_rows_that_the_training_cut_and_the_score_does_not_are_noted(place: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    # Characters are tokens, two more are put around them: 8 fit in a length of 10.
    texts = ["a" * 8, "b" * 9, "c" * 30, "d" * 8] * 5
    write_rows(rows, [{"text": f"{text}", "label": "xy"[number % 2]} for number, text in enumerate(texts)])
    notes = {}
    for length in (10, 40):
        out = str(tmp_path / f"run-{length}")
        run(place, "bert", out, str(rows), max_length=length)
        notes[length] = evaluate(out, scores=ScoreSettings(tasks=(str(rows),), split="train")).notes
    train = load_task(str(rows)).train
    longer = sum(len(example.text) > 8 for example in train)
    assert notes[40] == []
    (note,) = notes[10]
    assert note.startswith(f"{longer} of {len(train)} rows of task 'rows.jsonl' have more than the 10 tokens")


@pytest.mark.parametrize("said", ["user: hm", "system: well"])
def test_a_kept_score_is_of_every_message(
    said: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The question and the answer that is scored are the same; what the model reads between them is not."""
    scored: list[int] = []

    def score(model: Any, task: Any, examples: Any, **more: Any) -> Any:
        scored.append(len(examples))
        return SimpleNamespace(right=[True] * len(examples), unfinished=0)

    monkeypatch.setattr(evaluating, "graded", score)
    for between in ("user: well", said, said):
        parts = (message.split(": ") for message in ("user: 2+2?", between, "user: so?", "assistant: 4"))
        row = {"messages": [{"role": role, "content": content} for role, content in parts]}
        rows = write_rows(tmp_path / "rows.jsonl", [row] * 20)
        with killed_before_it_is_saved():
            evaluate(place / "llama", scores=ScoreSettings(tasks=(str(rows),)), out=tmp_path / "out")
    assert len(scored) == 2


@pytest.mark.parametrize("name", CHAT_SHAPES)
def test_a_chat_is_measured_as_it_was_trained(name: str, tmp_path: Path) -> None:
    shape = CHAT_SHAPES[name]
    answers = {
        "2 plus 3?": "It is 5.", "a word": "yes", "4?": "It is 4.", "none": "It is 0.", "7": "8", "b": "0",
    }  # fmt: skip
    talks = [[("user", question), ("assistant", answer)] for question, answer in answers.items()]
    base = save_chat_model(tmp_path / "base", shape)
    # It learns the first four, and is asked all.
    trainer = trl_trainer(base, talks[:4], tmp_path / "out", steps=40)
    trainer.train()
    trainer.save_model(tmp_path / "tuned")
    model, tokenizer = trainer.model.eval(), trainer.processing_class
    messages = [[{"role": role, "content": content} for role, content in talk] for talk in talks]
    rows = write_rows(tmp_path / "chat.jsonl", [{"messages": talk} for talk in messages])
    ends = tokenizer.convert_tokens_to_ids([shape.end, shape.eos])
    right = {
        question["content"]: _answer(model, tokenizer, [question], ends) == answer["content"]
        for question, answer in messages
    }
    assert 0 < sum(right.values()) < len(talks), "the case shows something"

    named = f"{rows}?messages=messages&validation={rows}"
    found = evaluate(str(tmp_path / "tuned"), base=str(base), scores=ScoreSettings(tasks=(named,)))
    (score,) = found.scores
    assert score.accuracy.estimate == sum(right.values()) / len(talks)
    assert score.unfinished == 0

    task = load_task(named)
    learned = [example for example in task.validation if example.text in {talk[0][1] for talk in talks[:4]}]
    grades = graded(OpenedModel(model, tokenizer, 256), task, learned)
    assert grades.right == [right[example.text] for example in learned]
    assert sum(grades.losses) / sum(grades.tokens) == pytest.approx(trainer.evaluate()["eval_loss"], rel=1e-4)


def _answer(model: Any, tokenizer: Any, prompt: list[dict[str, str]], ends: list[int]) -> str:
    """As a person asks a model: by the libraries alone."""
    text = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
    written = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=40, eos_token_id=ends,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    answer: str = tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)
    return answer.strip()


TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{% endfor %}"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base of two revisions, and an adapter of the older one with a chat template of its own."""
    hub, older = hub_with_base(tmp_path, monkeypatch), tmp_path / "older"
    adapter = Path(adapter_of(older, tmp_path / "adapter", ("q_proj", "down_proj")))
    change_config(adapter, base_model_name_or_path="org/base", revision="v1")
    tokenizer = AutoTokenizer.from_pretrained(older)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(adapter)
    keep(adapter, hub, "org/adapter", "main", "c" * 40)
    return hub


def losses_of(model: str, base: str | None, folder: Path) -> Evaluation:
    text = folder / "text.txt"
    text.write_text("Some words of text.\n\nAnd others, in a second paragraph.", encoding="utf-8")
    return evaluate(model, base=base, losses=LossSettings((str(text),)))


def test_an_adapter_is_measured_on_the_revision_that_it_names_or_on_the_base_that_is_given(
    hub: Path, tmp_path: Path
) -> None:
    """By its own tokenizer."""
    assert open_language_model("org/adapter").tokenizer.chat_template == TEMPLATE
    named = losses_of("org/adapter", None, tmp_path)
    older, main = (
        losses_of(str(tmp_path / "adapter"), str(tmp_path / base), tmp_path) for base in ("older", "main")
    )
    assert named.losses[0].loss == older.losses[0].loss != main.losses[0].loss
    by_id = losses_of("org/adapter", "org/base", tmp_path)
    assert by_id.losses[0] == main.losses[0]
    assert can_go_on("org/adapter", "org/base")
    assert not can_go_on("org/base", "org/base")
    [note] = [note for note in by_id.notes if "as its base" in note]
    said = "adapter 'org/adapter' names 'org/base@v1' as its base and is measured on 'org/base'"
    assert note.startswith(said)


def test_a_classifier_is_measured_under_the_head_of_the_base_in_its_record(hub: Path, tmp_path: Path) -> None:
    base = save_bert(tmp_path / "bert")
    folder = snapshot(hub, "org/classifier", "main", "d" * 40)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    keep_training({"status": "finished", "config": {"base": str(base), "data_seed": 7}}, folder)
    by_id = losses_of("org/classifier", None, tmp_path)
    # A head alone was added, so the encoder under the base's head is the base.
    by_path = losses_of(str(base), None, tmp_path)
    assert by_id.losses[0].loss.estimate == pytest.approx(by_path.losses[0].loss.estimate)
    assert FinetunedFolder.of("org/classifier").data_seed == 7
