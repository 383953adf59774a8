"""What a changed adapter's folder holds beside its weights."""

from __future__ import annotations

from pathlib import Path

from intruders.mitigation.mitigate import mitigate
from tests.checkpoints.models import saved, tiny_llama
from tests.mitigation.hot import hot_llama


def test_the_tokenizer_of_an_adapter_comes_with_it_and_nothing_of_its_training(tmp_path: Path) -> None:
    saved(tiny_llama(), tmp_path / "base")
    saved(hot_llama(), tmp_path / "tuned")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "run.json", "log.jsonl"):
        (tmp_path / "tuned" / name).write_text(name)
    mitigate(tmp_path / "base", tmp_path / "tuned", scale=0.3, out=tmp_path / "out")
    found = {file.name: file for file in (tmp_path / "out").iterdir()}
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert found[name].read_text() == name
    assert {"run.json", "log.jsonl"}.isdisjoint(found)
