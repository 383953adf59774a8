"""The tokenizer beside an adapter: whose it is, and what of it a model can have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from intruders.checkpoints.writing.companions import copy_own_tokenizer, own_tokenizer_files

FILES = ("chat_template.jinja", "tokenizer.json", "tokenizer_config.json")


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"x")
    (folder / "chat_template.jinja").write_text("a template")
    (folder / "tokenizer_config.json").write_text("{}")
    content = {"model": {"vocab": {"a": 0, "b": 6}}, "added_tokens": [{"id": 7, "content": "<|im|>"}]}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


def copied(adapter: Path, rows: int) -> list[str]:
    out = adapter.parent / "out"
    out.mkdir(exist_ok=True)
    copy_own_tokenizer(adapter, out, rows)
    return sorted(file.name for file in out.iterdir())


def test_the_files_are_those_of_the_tokenizer(adapter: Path) -> None:
    assert [file.name for file in own_tokenizer_files(adapter)] == list(FILES)


def test_a_run_of_ours_a_checkpoint_and_what_is_no_path_have_none(adapter: Path) -> None:
    assert own_tokenizer_files("org/model") == []
    assert own_tokenizer_files("base+0.5*other") == []
    (adapter / "run.json").write_text('{"schema": 1}')
    assert own_tokenizer_files(adapter) == []
    (adapter / "run.json").unlink()
    (adapter / "adapter_config.json").unlink()
    assert own_tokenizer_files(adapter) == []


def test_all_of_it_is_taken_where_every_token_has_a_row(adapter: Path) -> None:
    assert copied(adapter, rows=8) == list(FILES)


@pytest.mark.parametrize("content", [None, "{", '{"model": {}}'])
def test_a_token_without_a_row_or_a_broken_file_leaves_the_template(
    adapter: Path, content: str | None
) -> None:
    if content is not None:
        (adapter / "tokenizer.json").write_text(content)
    assert copied(adapter, rows=7 if content is None else 100) == ["chat_template.jinja"]
