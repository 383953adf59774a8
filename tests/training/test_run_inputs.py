"""A run that is resumed on other content than it began with is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import xxhash

from intruders.errors import SettingError
from intruders.training.finetune import finetune
from intruders.training.run_folder import RunFolder
from intruders.training.run_inputs import content_of_model
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

    # The record of an earlier version has no digest, and its run goes on.
    record = json.loads((out / "run.json").read_text())
    del record["loss_on"]
    (out / "run.json").write_text(json.dumps(record))
    assert finetune(config).is_finished


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
