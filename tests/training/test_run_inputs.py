"""A run that is resumed on other content than it began with is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import xxhash

from intruders.data.load_task import load_task
from intruders.errors import SettingError
from intruders.training.finetune import finetune
from intruders.training.run_folder import RunFolder
from intruders.training.run_inputs import content_of_model, models_of, require_same
from tests.tiny import write_files_of_a_model
from tests.training.tiny_runs import Interrupt, config_of

TEXT = "alpha beta gamma delta epsilon zeta eta theta"


def test_a_run_whose_loss_is_measured_on_another_text_is_not_resumed(llama: Path, tmp_path: Path) -> None:
    """One series of losses, and one limit for them, are of one text."""
    file = tmp_path / "mine.txt"
    file.write_text(TEXT)
    out = tmp_path / "run"
    config = config_of(llama, out, steps=4, audit_steps=2, loss_on=str(file), loss_documents=1)
    with pytest.raises(KeyboardInterrupt):
        finetune(config, [Interrupt()])
    recorded = RunFolder(out).record["loss_on"]
    digest = hashlib.sha256(json.dumps([TEXT]).encode()).hexdigest()[:12]
    assert recorded == {"corpus": str(file), "documents": 1, "digest": digest}

    file.write_text(TEXT.replace("alpha", "omega"))
    with pytest.raises(
        SettingError, match=r"measured its loss on other text of .*mine.txt' \(1 documents then"
    ):
        finetune(config)
    assert RunFolder(out).record["loss_on"] == recorded
    assert RunFolder(out).last_checkpoint() is not None


def test_a_run_whose_text_is_restored_goes_on(llama: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text(TEXT)
    config = config_of(llama, tmp_path / "run", steps=4, audit_steps=2, loss_on=str(file), loss_documents=1)
    with pytest.raises(KeyboardInterrupt):
        finetune(config, [Interrupt()])
    file.write_text("other")
    with pytest.raises(SettingError, match="restore the text"):
        finetune(config)
    file.write_text(TEXT)
    assert finetune(config).record["forgetting"]["corpus"] == str(file)
    # A finished run is told from one on another text too. Without the text there is nothing to compare with.
    file.write_text("other")
    with pytest.raises(SettingError, match=r"measured its loss on other text of .*mine.txt"):
        finetune(config)
    file.unlink()
    assert finetune(config).is_finished


def test_a_run_stores_what_its_training_depends_on(tmp_path: Path) -> None:
    write_files_of_a_model(tmp_path)
    stored = b"config.json 2 {}model.safetensors 7 numberstokenizer.json 5 words"
    assert content_of_model(str(tmp_path)) == xxhash.xxh3_128(stored).hexdigest()


@pytest.mark.parametrize(
    "name",
    [
        "vocab.txt",
        "special_tokens_map.json",
        "added_tokens.json",
        "tokenizer.model",
        "sentencepiece.bpe.model",
        "source.spm",
        "qwen.tiktoken",
    ],
)
def test_a_tokenizer_that_changes_is_another_model(name: str, tmp_path: Path) -> None:
    """Token numbers would mean other words than those that the run began with."""
    folder = tmp_path / "base"
    folder.mkdir()
    write_files_of_a_model(folder)
    (folder / name).write_text("alpha beta")
    config = config_of(folder, tmp_path / "run")
    task = load_task(config.task, config, config.data_seed)
    before = {"models": models_of(config, str(folder))}
    (folder / "notes.md").write_text("of another day")
    require_same(before, tmp_path, task, models_of(config, str(folder)))
    (folder / name).write_text("beta alpha")
    with pytest.raises(SettingError, match="contains a run from another tokenizer of base, whose files have"):
        require_same(before, tmp_path, task, models_of(config, str(folder)))
