"""Replay: what the batches hold, the loss of a mixed batch by hand, and its passes over the task."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from intruders.data.corpora import Corpus
from intruders.models.tuned_model import OpenedModel, open_language_model
from intruders.system.store import Kept
from intruders.training.finetune import finetune
from intruders.training.finetune_config import FinetuneConfig
from intruders.training.replay import ReplaySampler, read_replay
from intruders.training.trainer import ShowProgress
from tests.training.tiny_runs import config_of

TEXT = "alpha beta gamma delta\n\n" * 400  # several documents of about 4,000 characters


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "known.txt"
    file.write_text(TEXT)
    return file


def _config(base: Path, out: Path | str, **settings: Any) -> FinetuneConfig:
    given: dict[str, Any] = {"steps": 9, "batch_size": 4, "max_train_samples": 14, "max_eval_samples": 1}
    # A row of text is as long as the longest of the task may be.
    return config_of(base, Path(out), **(given | {"max_length": 64} | settings))


def _epoch(sampler: ReplaySampler, epoch: int) -> list[int]:
    sampler.set_epoch(epoch)
    order = list(sampler)
    assert len(order) == len(sampler)
    return order


def test_every_batch_has_its_share_and_every_row_comes_once() -> None:
    sampler = ReplaySampler(of_task=14, texts=5, batch_size=4, per_batch=1, seed=0)
    texts: list[int] = []
    orders = []
    for epoch in range(3):
        order = _epoch(sampler, epoch)
        batches = [order[start : start + 4] for start in range(0, len(order), 4)]
        assert [sum(index >= 14 for index in batch) for batch in batches] == [1] * 5
        assert sorted(index for index in order if index < 14) == list(range(14))
        texts += [index for index in order if index >= 14]
        orders.append(order)
    assert orders[0] != orders[1]
    # 15 texts of 5 in three epochs: each comes three times, and no text before all of its round were seen.
    assert Counter(texts) == dict.fromkeys(range(14, 19), 3)
    assert orders[1] == _epoch(ReplaySampler(14, 5, 4, 1, seed=0), 1), "the seed and the epoch alone decide"
    assert orders[1] != _epoch(ReplaySampler(14, 5, 4, 1, seed=1), 1)


def test_documents_are_cut_into_rows_and_measured_ones_left_out(llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, text in {"a": "abcdefghijk", "b": "measured", "c": "x"}.items():
        (folder / f"{name}.txt").write_text(text)
    tokenizer = AutoTokenizer.from_pretrained(llama)
    config = _config(llama, "out", replay=f"{folder}@0.25")
    opened = OpenedModel(None, tokenizer, 64)
    replay = read_replay(config, opened, 5, 4, Kept(None), Corpus("b.txt", ["measured"]))
    # 11 characters are tokens in rows of 5, 5 and 1; a row of one token has nothing to predict.
    assert [tokenizer.decode(row["input_ids"]) for row in replay.rows] == ["abcde", "fghij"]
    assert all(row["labels"] == [-100, *row["input_ids"][1:]] for row in replay.rows)
    assert replay.per_batch == 1


def test_what_the_base_wrote_is_replayed_again_after_a_kill(llama: Path, tmp_path: Path) -> None:
    config, kept = _config(llama, "out", replay="self@0.25"), Kept(tmp_path)
    opened = open_language_model(str(llama))
    before = torch.random.get_rng_state()
    replay = read_replay(config, opened, 8, 4, kept)
    assert torch.equal(before, torch.random.get_rng_state()), "the training draws what it would without"
    assert replay.corpus.name == "self"
    assert max(len(row["input_ids"]) for row in replay.rows) == 8
    without_a_model = OpenedModel(None, opened.tokenizer, 64)
    assert read_replay(config, without_a_model, 8, 4, kept).rows == replay.rows


def test_a_run_replays_what_its_base_writes(llama: Path, tmp_path: Path) -> None:
    config, told = _config(llama, tmp_path / "own", replay="self@0.25", steps=1), dict[str, list[int]]()
    run = finetune(config, [ShowProgress(lambda what, *done: told.setdefault(what, []).extend(done))])
    assert told["write text by the base"][:4] == [0, 256, 32, 256]
    assert (run.record["replay"]["corpus"], run.record["replay"]["documents"]) == ("self", 256)
    assert finetune(config).record == run.record


def test_the_loss_of_a_mixed_batch_is_the_mean_over_tokens(llama: Path, corpus: Path, tmp_path: Path) -> None:
    """By hand from the untrained model: the logged loss of the first step, whose weights are the base's."""

    class KeepBatch(TrainerCallback):  # type: ignore[misc]
        batch: Any = None

        def on_train_begin(self, *told: Any, train_dataloader: Any = None, **kwargs: Any) -> None:
            self.batch = next(iter(train_dataloader))

    seen = KeepBatch()
    run = finetune(_config(llama, tmp_path / "run", replay=f"{corpus}@0.5", steps=1, method="full"), [seen])
    model = AutoModelForCausalLM.from_pretrained(llama).eval()
    total, count, texts = 0.0, 0, 0
    for ids, labels in zip(seen.batch["input_ids"], seen.batch["labels"], strict=True):
        texts += int((labels != -100).sum() == (ids[1:] != 0).sum())  # all of a text is learned
        with torch.no_grad():
            predicted = model(ids[None]).logits[0].log_softmax(-1)
        for position, label in enumerate(labels[1:].tolist()):
            if label != -100:
                total, count = total - float(predicted[position, label]), count + 1
    assert texts == 2
    assert len(seen.batch["labels"]) == 4
    # Single precision, and padding on the right that no attended token sees.
    assert run.log[0]["loss"] == pytest.approx(total / count, rel=1e-5)
    assert run.record["replay"]["rows_per_batch"] == 2
    assert run.record["replay"]["corpus"] == str(corpus)


def test_epochs_count_passes_over_the_task(llama: Path, corpus: Path, tmp_path: Path) -> None:
    """14 rows, three a batch beside one of text: five steps an epoch."""
    run = finetune(_config(llama, tmp_path / "run", replay=f"{corpus}@0.25", steps=None, epochs=2))
    assert run.record["steps"] == 10
