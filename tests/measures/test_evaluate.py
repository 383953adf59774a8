"""Fine-tuned models of every kind, measured; against the libraries' own merged models."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from intruders.checkpoints.writing.training_record import data_seed_of
from intruders.data.columns import Columns
from intruders.data.load_task import load_task
from intruders.errors import CheckpointError, SettingError
from intruders.measures import evaluate as evaluating
from intruders.measures.evaluate import evaluate
from intruders.measures.evaluation import Evaluation
from intruders.measures.harness import check_harness
from intruders.measures.measure_settings import HarnessSettings, LossSettings, ScoreSettings
from intruders.measures.task_score import score_task
from intruders.measures.text_loss import causal_losses, pseudo_losses
from intruders.models.loading import load_tokenizer
from intruders.models.tuned_model import open_language_model
from intruders.reports.evaluation import measure_lines, step_lines
from intruders.training.finetune import finetune
from intruders.training.finetune_config import FinetuneConfig
from tests.checkpoints.models import set_factors
from tests.json_lines import write_rows
from tests.measures.harness_task import write_harness_task
from tests.tiny import save_bert, save_llama, save_roberta, short_task, with_rounded

TEXT = "Some words of text.\n\nAnd others, in a second paragraph."


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bases, and runs of them: llama (lora), bert on two labels (lora, full)."""
    folder = tmp_path_factory.mktemp("models")
    save_llama(folder / "llama")
    save_bert(folder / "bert")
    for name in ("a", "b", "c"):
        (folder / "texts").mkdir(exist_ok=True)
        (folder / "texts" / f"{name}.txt").write_text(f"{TEXT} {name * 20}")
    rows = folder / "rows.tsv"
    rows.write_text("text\tlabel\n" + "".join(f"{'aaaa' if i % 2 else 'zzzz'}\t{i % 2}\n" for i in range(60)))
    task = f"{rows}?text=text&label=label&test={rows}"
    _run(folder, "llama", "llama-lora", short_task(folder), method="lora", max_train_samples=40)
    _run(folder, "bert", "bert-lora", task, method="lora", lr=2e-2, steps=300, match="accuracy=1.0")
    _run(folder, "bert", "bert-full", task, method="full", lr=3e-3, steps=300, match="accuracy=1.0")
    return folder


def _run(folder: Path, base: str, out: str, task: str, **settings: Any) -> None:
    given: dict[str, Any] = {
        "rank": 2, "lr": 1e-2, "steps": 5, "batch_size": 4, "max_eval_samples": 20, "precision": "fp32",
        "eval_steps": 10, "max_new_tokens": 8,
    } | settings  # fmt: skip
    finetune(FinetuneConfig(base=str(folder / base), task=task, out=str(folder / out), **given))


def test_the_steps_of_a_series(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each beside the base, which is opened once, and beside the one before, by transformers' own losses of each."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base, tuned = place / "llama", place / "llama-lora"
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
        causal_losses(AutoModelForCausalLM.from_pretrained(folder), tokenizer, documents, window=512)
        for folder in (base, merged, merged, rounded)
    ]
    steps = [result, *result.also]
    for step, now, before in zip(steps, sums[1:], sums, strict=False):
        (loss,) = step.losses
        change = float((now.sums - sums[0].sums).sum() / now.tokens.sum())
        own = float((now.sums - before.sums).sum() / now.tokens.sum())
        assert loss.difference is not None
        assert loss.difference.estimate == pytest.approx(change, abs=1e-6)
        assert (loss.own_part or loss.difference).estimate == pytest.approx(own, abs=1e-6)
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["also"][1]["model"] == str(rounded)
    assert Evaluation.load(tmp_path / "out").to_document() == result.to_document()
    table = pd.read_parquet(tmp_path / "out" / "documents.parquet")
    assert table["step"].tolist() == [0] * 3 + [1] * 3 + [2] * 3
    said = step_lines(result)
    last = result.also[1].losses[0].own_part
    assert last is not None
    assert said[-2].endswith(last.text("+.3f"))
    assert said[-1] == (
        f"after '{tuned}': '{rounded}' lost most, {last.text('+.3f')} nats per token"
        if last.is_above_zero
        else f"after '{tuned}': no step raised the loss beyond its interval"
    )


def test_an_adapter_against_its_base(place: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    texts = LossSettings((str(place / "texts"),))
    found = evaluate(place / "llama-lora", base=place / "llama", losses=texts, out=tmp_path / "out")
    base = AutoModelForCausalLM.from_pretrained(place / "llama")
    tokenizer = AutoTokenizer.from_pretrained(place / "llama")
    documents = [(place / "texts" / f"{name}.txt").read_text() for name in "abc"]
    before = causal_losses(base, tokenizer, documents, window=512)
    tuned = PeftModel.from_pretrained(base, place / "llama-lora").merge_and_unload()
    after = causal_losses(tuned, tokenizer, documents, window=512)
    (loss,) = found.losses
    assert loss.base_loss.estimate == pytest.approx(before.mean, rel=1e-5)
    assert loss.loss.estimate == pytest.approx(after.mean, rel=1e-5)
    assert loss.difference.estimate == pytest.approx(after.mean - before.mean, rel=1e-3)
    record = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert record["losses"][0]["difference"] == loss.difference.as_dict()
    table = pd.read_parquet(tmp_path / "out" / "documents.parquet")
    assert table["loss_sum"].sum() / table["tokens"].sum() == pytest.approx(after.mean, rel=1e-5)
    assert any("change" in line for line in measure_lines(loss))


@pytest.mark.parametrize("save", [save_roberta, save_llama])
def test_a_classifier_of_another_trainer_is_measured_under_its_bases_head(save: Any, tmp_path: Path) -> None:
    """It has no record of its labels, of which a loss on text needs none."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSequenceClassification

    base = save(tmp_path / "base")
    whole = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
    targets = ["query"] if save is save_roberta else ["q_proj"]
    tuned: Any = get_peft_model(whole, LoraConfig(r=2, target_modules=targets, task_type="SEQ_CLS"))
    set_factors(tuned, 0.5, 1)
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
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    rows = place / "rows.tsv"
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
        from transformers import AutoModel

        encoder = AutoModel.from_pretrained(place / run, add_pooling_layer=False)
    else:
        from peft import PeftModel
        from transformers import AutoModelForSequenceClassification

        whole = AutoModelForSequenceClassification.from_pretrained(place / "bert", num_labels=2)
        encoder = PeftModel.from_pretrained(whole, place / run).merge_and_unload().bert
    by_hand.bert.load_state_dict(encoder.state_dict(), strict=False)
    tokenizer = AutoTokenizer.from_pretrained(place / "bert")
    documents = [(place / "texts" / f"{name}.txt").read_text() for name in "abc"]
    expected = pseudo_losses(by_hand, tokenizer, documents, window=128).mean
    assert found.losses[0].loss.estimate == pytest.approx(expected, rel=1e-5)
    assert found.losses[0].difference.estimate != 0


def test_a_full_classifier_finds_its_base_in_its_record(place: Path) -> None:
    assert open_language_model(str(place / "bert-full")).is_masked


def test_the_estimate_has_another_name(place: Path) -> None:
    found = evaluate(str(place / "bert"), losses=LossSettings((str(place / "texts"),), estimate=True))
    assert found.losses[0].losses[0].measure == "masked-15%-estimate"
    assert "masked-15%-estimate" in measure_lines(found.losses[0])[0]


def test_what_cannot_be_measured_is_said(place: Path, tmp_path: Path) -> None:
    from transformers import AutoModel

    texts = [str(place / "texts")]
    with pytest.raises(SettingError, match="nothing to measure"):
        evaluate(str(place / "llama"))
    with pytest.raises(SettingError, match=r"trained on 2 labels, and 'assignment' of task 'pydoc-topics-1'"):
        evaluate(str(place / "bert-lora"), scores=ScoreSettings(tasks=("pydoc-topics-1",)))
    with pytest.raises(CheckpointError, match="does not exist; expected a path, a hub id"):
        evaluate(str(tmp_path / "none"), losses=LossSettings(texts))
    headless = tmp_path / "headless"
    AutoModel.from_pretrained(place / "bert").save_pretrained(headless)
    with pytest.raises(CheckpointError, match="no masked-language-model head"):
        evaluate(str(headless), losses=LossSettings(texts))
    orphan = tmp_path / "orphan"
    orphan.mkdir()
    settings = json.loads((place / "llama-lora" / "adapter_config.json").read_text())
    (orphan / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": None}))
    with pytest.raises(CheckpointError, match="does not name its base"):
        evaluate(str(orphan), losses=LossSettings(texts))
    (tmp_path / "file").write_text("x")
    with pytest.raises(SettingError, match="cannot be written"):
        evaluate(str(place / "llama"), losses=LossSettings(texts), out=tmp_path / "file" / "out")


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
    found = evaluate(str(place / "llama-lora"), harness=HarnessSettings(("plus_one",), str(own)))
    (score,) = found.harness
    assert (score.task, score.metric) == ("plus_one", "acc")
    assert capsys.readouterr().err == ""  # no terminal, no bars
    # By hand: the choice with the highest log-likelihood after the question and the space that the harness puts there.
    import torch

    opened = open_language_model(str(place / "llama-lora"))
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
        evaluate(str(place / "llama-lora"), losses=LossSettings((str(place / "texts"),)), harness=unknown)


def test_what_was_held_out_of_a_file_is_said(place: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    write_rows(rows, [{"q": f"{i}+1=", "a": str(i + 1)} for i in range(20)])
    alone = ScoreSettings(prompt="q", completion="a", tasks=(str(rows),), max_new_tokens=8)
    for scores, said in [
        (alone, "accuracy on rows.jsonl, the tenth held out of the file (2 examples): "),
        (replace(alone, test_file=str(rows)), "accuracy on rows.jsonl, test (20 examples): "),
        (replace(alone, validation_file=str(rows)), "accuracy on rows.jsonl, validation (20 examples): "),
    ]:
        found = evaluate(str(place / "llama-lora"), scores=scores)
        assert measure_lines(found.scores[0])[0].startswith(said)


def test_a_run_is_scored_on_the_rows_that_it_held_out(tmp_path: Path) -> None:
    save_llama(tmp_path / "llama")
    rows = tmp_path / "rows.jsonl"
    write_rows(rows, [{"q": f"{i}+1=", "a": str(i + 1)} for i in range(20)])
    columns = Columns(prompt="q", completion="a")
    out, read = tmp_path / "run", {"prompt": "q", "completion": "a", "max_new_tokens": 8}
    named = {"base": str(tmp_path / "llama"), "task": str(rows), "out": str(out)}
    finetune(FinetuneConfig(**named, **read, steps=1, data_seed=3))
    assert data_seed_of(str(out)) == 3
    assert data_seed_of(str(tmp_path / "llama")) == 0
    trained = {example.text for example in load_task(str(rows), columns, 3).train}
    seen = []

    def spy(opened: Any, task: Any, **more: Any) -> Any:
        seen.extend(example.text for example in task.validation)
        return score_task(opened, task, **more)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("intruders.measures.evaluate.score_task", spy)
        evaluate(str(out), scores=ScoreSettings(tasks=(str(rows),), **read))
    assert len(seen) == 2
    assert not trained & set(seen)


def _killed(*given: object) -> None:
    raise KeyboardInterrupt


def test_rows_that_the_training_cut_and_the_score_does_not_are_noted(place: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    # Characters are tokens, two more are put around them: 8 fit in a length of 10.
    texts = ["a" * 8, "b" * 9, "c" * 30, "d" * 8] * 5
    write_rows(rows, [{"text": f"{text}", "label": "xy"[number % 2]} for number, text in enumerate(texts)])
    notes = {}
    for length in (10, 40):
        out = str(tmp_path / f"run-{length}")
        made = {"base": str(place / "bert"), "task": str(rows), "out": out}
        finetune(FinetuneConfig(**made, steps=1, max_length=length))
        scored = ScoreSettings(tasks=(str(rows),), split="train")
        notes[length] = evaluate(out, scores=scored).notes
    train = load_task(str(rows)).train
    longer = sum(len(example.text) > 8 for example in train)
    assert notes[40] == []
    (note,) = notes[10]
    out, kept = str(tmp_path / "run-10"), tmp_path / "kept"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Evaluation, "save", _killed)
        with pytest.raises(KeyboardInterrupt):
            evaluate(out, scores=scored, out=kept)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(evaluating, "open_for_task", None)  # nothing is scored again
        assert evaluate(out, scores=scored, out=kept).notes == [note]
    assert note.startswith(f"{longer} of {len(train)} rows of task 'rows.jsonl' have more than the 10 tokens")
