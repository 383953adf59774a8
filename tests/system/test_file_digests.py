"""Digests that folders of runs and evaluations store: against one hash of the bytes that they are said to be of."""

from __future__ import annotations

from pathlib import Path

import pytest
import xxhash

from intruders.checkpoints.opening.many_sources import digest_of
from intruders.studies.work import stage_inputs
from intruders.training.run_inputs import content_of_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name, content in {
        "config.json": "{}",
        "model.safetensors": "numbers",
        "tokenizer.json": "words",
        "notes.md": "of a person",
        "special_tokens_map.json": "[]",
    }.items():
        (folder / name).write_text(content)
    return folder


def test_a_run_stores_what_its_training_depends_on(model: Path) -> None:
    content = b"config.json 2 {}model.safetensors 7 numberstokenizer.json 5 words"
    assert content_of_model(str(model)) == xxhash.xxh3_128(content).hexdigest()


def test_an_evaluation_stores_what_is_read_of_a_model_with_its_weight_in_a_sum(model: Path) -> None:
    files = b"config.json 2 {}model.safetensors 7 numbersspecial_tokens_map.json 2 []tokenizer.json 5 words"
    assert digest_of(str(model)) == xxhash.xxh3_128(b"1.0 " + files).hexdigest()
    both = f"{model}@0.5+{model}@0.25"
    assert digest_of(both) == xxhash.xxh3_128(b"0.5 " + files + b"0.25 " + files).hexdigest()


def test_a_study_stores_the_content_of_a_data_file_whatever_its_name(tmp_path: Path) -> None:
    content = bytes(range(256)) * 20_000  # 5 MB: more than one piece
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_bytes(content)
        digest = stage_inputs._digest_of_file(tmp_path / name)
        assert digest == xxhash.xxh3_128(content).hexdigest()
