"""Tasks in turn: accuracies and what follows from them, heads that stay, audits against the first base."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from intruders.data.load_task import load_task
from intruders.errors import ResultFileError, SettingError
from intruders.models.loading import load_model
from intruders.reports.sequence import sequence_lines
from intruders.training.finetune_config import FinetuneConfig
from intruders.training.sequence_result import SequenceResult
from intruders.training.train_in_sequence import retrain_head, train_in_sequence
from tests.json_lines import write_rows
from tests.tiny import save_bert
from tests.training.callback.trainers import intruders_of
from tests.training.tiny_runs import without_dropout


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bert(tmp_path_factory.mktemp("bert"), with_head=False)


def _tasks(folder: Path) -> list[str]:
    """Two tasks of two and three labels that a tiny model learns at once."""
    names = []
    for number, letters in enumerate(("az", "mqx")):
        file = folder / f"task{number}.tsv"
        rows = [f"{letters[i % len(letters)] * 4}\t{i % len(letters)}" for i in range(60)]
        file.write_text("text\tlabel\n" + "\n".join(rows) + "\n")
        names.append(f"{file}?text=text&label=label")
    return names


def _completions(folder: Path) -> str:
    """A task of completions that a tiny model learns at once."""
    rows = write_rows(folder / "rows.jsonl", [{"p": f"{i % 3}:", "c": "ab"} for i in range(30)])
    return f"{rows}?prompt=p&completion=c"


def _backbone(out: Path, number: int) -> dict[str, torch.Tensor]:
    return load_file(out / f"stage-{number}" / "backbone" / "model.safetensors")


def _config(base: Path, out: Path, **settings: Any) -> FinetuneConfig:
    given: dict[str, Any] = {
        "rank": 4, "lr": 1e-2, "steps": 40, "batch_size": 8, "precision": "fp32", "save_steps": 1000,
        "match": "accuracy=1.0", "eval_steps": 10, "warmup_steps": 10, "max_new_tokens": 8,
    } | settings  # fmt: skip
    return FinetuneConfig(base=str(base), task="unused", out=str(out), **given)


TWO_STEPS: dict[str, Any] = {"match": None, "steps": 2, "warmup_steps": 0}


@pytest.mark.parametrize(
    ("method", "adapters"), [("full", "merge"), ("lora", "merge"), ("lora", "keep"), ("pissa", "merge")]
)
def test_stages_go_on_from_each_other(method: str, adapters: str, bert: Path, tmp_path: Path) -> None:
    lr = 3e-3 if method == "full" else 2e-2
    config = _config(bert, tmp_path / "out", method=method, lr=lr)
    found = train_in_sequence(config, _tasks(tmp_path), adapters=adapters)
    assert [len(row) for row in found.accuracies] == [1, 2]
    # Backbone and head, put together again, score as the model did at the end of its own stage.
    runs = [json.loads((tmp_path / "out" / f"stage-{n}" / "run.json").read_text()) for n in (1, 2)]
    for stage, run in enumerate(runs):
        assert found.accuracies[stage][stage] == run["validation"]["accuracy"]
    assert found.accuracies[0][0] == 1.0
    (tmp_path / "usual").touch()
    usual = (tmp_path / "usual").stat().st_mode  # others may read what the umask says
    assert {file.stat().st_mode for file in (tmp_path / "out").rglob("*.safetensors")} == {usual}
    # The second stage starts from the first: undoing its own update gives back the first stage's weights.
    base = load_file(bert / "model.safetensors")
    one, two = (_backbone(tmp_path / "out", number) for number in (1, 2))
    name = "encoder.layer.0.attention.self.query.weight"
    first, second = one[name] - base[name], two[name] - base[name]
    if method != "full":
        ranks = [int((torch.linalg.svdvals(update) > 1e-4).sum()) for update in (first, second)]
        # Merged adapters add their ranks; the one that is kept stays at its own. PiSSA's difference has two.
        grown = {("lora", "merge"): [4, 8], ("lora", "keep"): [4, 4], ("pissa", "merge"): [8, 16]}
        assert ranks == grown[method, adapters]
    assert (second - first).norm() < second.norm() + first.norm()
    assert not torch.equal(first, second)
    # Heads are those of their own stage, and of its number of labels.
    heads = [load_file(tmp_path / "out" / f"stage-{n}" / "head.safetensors") for n in (1, 2)]
    assert [head["classifier.weight"].shape[0] for head in heads] == [2, 3]
    for stage, weights in enumerate((one, two)):
        assert found.intruders[stage] == sum(
            intruders_of(value, weights[key])
            for key, value in base.items()
            if value.ndim == 2 and "embeddings" not in key and not torch.equal(value, weights[key])
        )
    assert found.steps == [run["steps"] for run in runs]
    assert found.reached[0] is True


@pytest.mark.parametrize("adapters", ["merge", "keep"])
def test_moved_stages_go_on(
    adapters: str, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the end of the training of its last stage, under a relative path, and then an absolute one elsewhere."""
    monkeypatch.chdir(tmp_path)
    tasks = _tasks(tmp_path)
    config = _config(bert, Path("out"), **TWO_STEPS)
    whole = train_in_sequence(config, tasks, adapters=adapters)
    written = (tmp_path / "out" / "stage-2" / "backbone" / "model.safetensors").read_bytes()
    moved = tmp_path / "elsewhere" / "moved"
    moved.parent.mkdir()
    (tmp_path / "out").rename(moved)
    shutil.rmtree(moved / "stage-2" / "backbone")
    (moved / "sequence.json").unlink()
    trained = [(moved / f"stage-{number}" / "run.json").read_bytes() for number in (1, 2)]
    config = replace(config, out=str(moved))
    result = moved / "stage-2" / "stage.json"
    result.write_text(result.read_text()[:20])
    with pytest.raises(ResultFileError, match=r"stage\.json' cannot be read as the result .*; restore it"):
        train_in_sequence(config, tasks, adapters=adapters)
    result.unlink()
    assert train_in_sequence(config, tasks, adapters=adapters) == whole
    assert (moved / "stage-2" / "backbone" / "model.safetensors").read_bytes() == written
    assert [(moved / f"stage-{number}" / "run.json").read_bytes() for number in (1, 2)] == trained
    # The path is not all: what is there must be what the second stage began from.
    name = "backbone/model.safetensors" if adapters == "merge" else "adapter_model.safetensors"
    weights = moved / "stage-1" / name
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(SettingError, match=r"from another (base|start_from), whose files have changed"):
        train_in_sequence(config, tasks, adapters=adapters)


def test_a_finished_stage_needs_its_model_only_for_what_is_made_of_it(bert: Path, tmp_path: Path) -> None:
    """A full stage has its weights a second time in ``backbone``; a person may free the room of the first."""
    config = _config(bert, tmp_path / "out", **TWO_STEPS, method="full")
    whole = train_in_sequence(config, _tasks(tmp_path))
    (tmp_path / "out" / "stage-1" / "model.safetensors").unlink()
    assert train_in_sequence(config, _tasks(tmp_path)) == whole
    shutil.rmtree(tmp_path / "out" / "stage-1" / "backbone")
    with pytest.raises(SettingError, match=r"stage-1' contains a finished run without its model"):
        train_in_sequence(config, _tasks(tmp_path))


def test_causal_tasks_in_turn(llama: Path, tmp_path: Path) -> None:
    config = _config(llama, tmp_path / "out", method="lora", max_eval_samples=3)
    found = train_in_sequence(config, [_completions(tmp_path)] * 2)
    assert found.reached == [True, True]
    assert found.accuracies == [[1.0], [1.0, 1.0]]
    with pytest.raises(SettingError, match="retrain_heads is true, and none of the tasks is classification"):
        train_in_sequence(config, [_completions(tmp_path)] * 2, retrain_heads=True)


def test_what_cannot_be_a_sequence_is_said(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="without tasks"):
        train_in_sequence(_config(bert, tmp_path), [])
    with pytest.raises(SettingError, match="expected merge or keep"):
        train_in_sequence(_config(bert, tmp_path), ["pydoc-topics"], adapters="drop")
    with pytest.raises(SettingError, match=r"adapters is 'keep', but method 'pissa' .* pass merge"):
        train_in_sequence(_config(bert, tmp_path / "p", method="pissa"), _tasks(tmp_path), adapters="keep")
    assert not (tmp_path / "p").exists(), "known before the first step of the first stage"


def test_what_a_later_stage_cannot_do_is_said_before_the_first(llama: Path, tmp_path: Path) -> None:
    first = _completions(tmp_path)
    long = tmp_path / "long.jsonl"
    long.write_text((tmp_path / "rows.jsonl").read_text() + json.dumps({"p": "0:" * 300, "c": "ab"}) + "\n")
    later = f"{long}?prompt=p&completion=c"
    config = _config(llama, tmp_path / "out", method="lora", max_eval_samples=None, match=None)
    with pytest.raises(SettingError, match=r"line 31 of long.jsonl \(the .* split of task .*\) has 600"):
        train_in_sequence(config, [first, later])
    with pytest.raises(SettingError, match=r"task 'rows.jsonl' has no right answers to count"):
        train_in_sequence(config, [first, f"{first}&score=none"])
    assert not (tmp_path / "out").exists()
    # The tests' files of a stage are read after every later one, and left out of them with --drop-too-long.
    kept = replace(config, steps=2, warmup_steps=0, drop_too_long=True)
    found = train_in_sequence(kept, [f"{first}&test={long}"])
    assert len(found.accuracies) == 1


def test_another_sequence_is_not_replaced(bert: Path, tmp_path: Path) -> None:
    tasks = _tasks(tmp_path)
    out = tmp_path / "out"
    (out / "stage-1").mkdir(parents=True)
    (out / "stage-2").mkdir()
    with pytest.raises(SettingError, match="contains a sequence of other tasks; choose another folder"):
        train_in_sequence(_config(bert, out), tasks[:1])
    content = json.dumps({"schema": 1, "tasks": [*tasks, "sst2"]})
    (out / "sequence.json").write_text(content)
    for given in (tasks, tasks[::-1]):
        with pytest.raises(SettingError, match=r"a sequence of other tasks \(.*, sst2\); choose another"):
            train_in_sequence(_config(bert, out), given)
    assert (out / "sequence.json").read_text() == content
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(SettingError, match="is not empty and not a sequence"):
        train_in_sequence(_config(bert, tmp_path / "mine"), tasks)


def _tokens(folder: Path, texts: list[str]) -> Any:
    return AutoTokenizer.from_pretrained(folder)(texts, return_tensors="pt", padding=True)


def _head_by_hand(
    folder: Path, head: dict[str, torch.Tensor], rows: list[tuple[str, int]], steps: int
) -> Any:
    """AdamW on the head alone, over fixed features of all rows at once, with a rate that falls linearly to zero."""
    classes = len(head["classifier.weight"])
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=classes)
    tokens = _tokens(folder, [text for text, _ in rows])
    model.load_state_dict(head, strict=False)
    labels = torch.tensor([label for _, label in rows])
    parameters = [model.get_parameter(name) for name in head]
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.0)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / steps)
        model.zero_grad()
        torch.nn.functional.cross_entropy(model.eval()(**tokens).logits, labels).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)  # as the Trainer clips it
        optimizer.step()
    return model


def test_heads_are_trained_again_on_the_frozen_body(bert: Path, tmp_path: Path) -> None:
    """Every row is in every batch and nothing is dropped out, so that a few lines give the same head."""
    base = without_dropout(Path(shutil.copytree(bert, tmp_path / "base")))
    tasks = _tasks(tmp_path)
    eight = TWO_STEPS | {"steps": 8, "batch_size": 64, "max_eval_samples": None}
    config = _config(base, tmp_path / "out", **eight)
    kept = train_in_sequence(config, tasks)
    assert kept.head_steps == []
    bodies = [_backbone(tmp_path / "out", number) for number in (1, 2)]

    found = train_in_sequence(config, tasks, retrain_heads=True)
    assert found.head_steps == [[], [8]]
    assert found.accuracies[0] == kept.accuracies[0]
    assert found.accuracies[1][1] == kept.accuracies[1][1]
    assert found.intruders == kept.intruders
    for number, body in enumerate(bodies, start=1):
        now = _backbone(tmp_path / "out", number)
        assert all(torch.equal(now[name], value) for name, value in body.items())

    task = load_task(tasks[0], config, config.data_seed)
    head = load_file(tmp_path / "out" / "stage-1" / "head.safetensors")
    labels = {label: index for index, label in enumerate(task.labels)}
    rows = [(example.text, labels[example.target]) for example in task.train]
    folder = tmp_path / "out" / "stage-2" / "backbone"
    model = _head_by_hand(folder, head, rows, 8)
    again = load_model(str(folder), "classification", task.labels)
    retrain_head(again, head, AutoTokenizer.from_pretrained(folder), task, config, 8, tmp_path)
    for name in head:
        wanted = model.get_parameter(name)
        # Eight steps in single precision, in another order of the sums.
        assert torch.allclose(again.get_parameter(name), wanted, atol=2e-5)
        assert not torch.allclose(head[name], wanted, atol=1e-3)
    body = {name: value for name, value in again.named_parameters() if name not in head}
    assert all(torch.equal(value, bodies[1][name.removeprefix("bert.")]) for name, value in body.items())

    scored = task.test or task.validation
    tokens = _tokens(folder, [row.text for row in scored])
    right = model(**tokens).logits.argmax(-1) == torch.tensor([labels[row.target] for row in scored])
    assert found.accuracies[1][0] == pytest.approx(float(right.float().mean()))
    assert any("trained again on the frozen body" in line for line in sequence_lines(found))
    # What was measured with heads that were kept is measured again without them, and the other way round.
    assert train_in_sequence(config, tasks).accuracies == kept.accuracies


def test_classes_after_completions_keep_the_head(llama: Path, tmp_path: Path) -> None:
    """A head of its own, which no weight is tied to, is the base's to the bit after a stage of each kind."""
    tasks = [_completions(tmp_path), _tasks(tmp_path)[0]]
    config = _config(llama, tmp_path / "out", **TWO_STEPS, method="lora", max_eval_samples=3)
    assert [len(row) for row in train_in_sequence(config, tasks).accuracies] == [1, 2]
    before = load_file(llama / "model.safetensors")
    for number in (1, 2):
        after = _backbone(tmp_path / "out", number)
        assert after.keys() == before.keys()
        assert torch.equal(after["lm_head.weight"], before["lm_head.weight"])
        name = "model.layers.0.self_attn.q_proj.weight"
        assert not torch.equal(after[name], before[name])


def test_a_sequence_of_classes_goes_on_with_completions(llama: Path, tmp_path: Path) -> None:
    """After one stage, whose backbone has no output head yet, and after two, on the first of which one is trained."""
    classes, text = _tasks(tmp_path), _completions(tmp_path)
    head = load_file(llama / "model.safetensors")["lm_head.weight"]
    for known in (1, 2):
        out = tmp_path / str(known)
        config = _config(llama, out, **TWO_STEPS, method="lora", max_eval_samples=3)
        train_in_sequence(config, classes[:known])
        before = _backbone(out, known)
        assert "lm_head.weight" not in before
        assert len(train_in_sequence(config, [*classes[:known], text]).accuracies) == known + 1
        after = _backbone(out, known)
        assert torch.equal(after.pop("lm_head.weight"), head)
        assert {f"model.{name}" for name in before} == after.keys()
        assert all(torch.equal(after[f"model.{name}"], value) for name, value in before.items())
        assert torch.equal(_backbone(out, known + 1)["lm_head.weight"], head)


def test_measures_follow_their_formulas() -> None:
    found = SequenceResult(["a", "b", "c"], [[0.9], [0.95, 0.8], [0.5, 0.7, 0.6]], [0, 3, 5], [9, 9, 9])
    assert found.average_accuracy == pytest.approx(0.6)
    assert found.backward_transfer == pytest.approx(((0.5 - 0.9) + (0.7 - 0.8)) / 2)
    assert found.forgetting == pytest.approx([0.45, 0.1])
    assert SequenceResult(["a"], [[0.9]], [0], [9]).backward_transfer is None
    lines = sequence_lines(found)
    assert "0.500    0.700    0.600   5 of 9" in lines[-2]
    assert lines[-1] == "average accuracy 0.600, backward transfer -0.250"
    missed = replace(found, steps=[20, 80, 40], reached=[True, False, True])
    ends = [line.endswith("did not reach the score in 80 steps") for line in sequence_lines(missed)[4:7]]
    assert ends == [False, True, False]
