"""Bases, runs of them, and texts and tasks to measure them on; no test changes these."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from intruders.measures.evaluation import Evaluation
from intruders.training.finetune import finetune
from intruders.training.finetune_config import FinetuneConfig
from tests.json_lines import write_rows
from tests.tiny import save_bert, save_gpt2, save_llama


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three bases, an adapter on completions, and classifiers: one that was hardly trained, and two that know all."""
    folder = tmp_path_factory.mktemp("place")
    save_llama(folder / "llama")
    save_bert(folder / "bert")
    save_gpt2(folder / "gpt2")
    (folder / "texts").mkdir()
    for name in ("a", "b", "c"):
        text = "Some words of text.\n\nAnd others, in a second paragraph."
        (folder / "texts" / f"{name}.txt").write_text(f"{text} {name * 20}")
    (folder / "notes.txt").write_text("\n\n".join(f"Paragraph {i}. " + "word " * 900 for i in range(3)))
    (folder / "one.txt").write_text("Some words of one document. " * 9)
    films = [f"{'good' if i % 2 else 'bad'} film {i}" for i in range(20)]
    for name, rows, labels in (
        ("numbers", films, ("0", "1")),
        ("words", films, ("neg", "pos")),
        ("letters", ["zzzz", "aaaa"] * 30, ("0", "1")),
    ):
        lines = [f"{row}\t{labels[i % 2]}" for i, row in enumerate(rows)]
        (folder / f"{name}.tsv").write_text("\n".join(["text\tlabel", *lines]) + "\n")
    write_rows(folder / "sums.jsonl", [{"q": f"{i}+1=", "a": str(i + 1)} for i in range(20)])
    run(folder, "llama", "completer", f"{folder}/sums.jsonl?prompt=q&completion=a", lr=1e-2, steps=5)
    run(folder, "bert", "classifier", f"{folder}/words.tsv?text=text&label=label")
    known: dict[str, Any] = {"steps": 300, "eval_steps": 10, "match": "accuracy=1.0", "batch_size": 4}
    for method, lr in (("lora", 2e-2), ("full", 3e-3)):
        task = f"{folder}/letters.tsv?text=text&label=label&test={folder}/letters.tsv"
        run(folder, "bert", f"bert-{method}", task, method=method, lr=lr, **known)
    return folder


@contextmanager
def killed_before_it_is_saved() -> Iterator[None]:
    """An evaluation that keeps what it measured, and is killed before it is whole."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Evaluation, "save", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            yield


def run(folder: Path, base: str, out: str, task: str, **more: Any) -> None:
    """Fine-tune a base of the folder for a step."""
    small = {"rank": 2, "steps": 1, "batch_size": 2, "max_new_tokens": 4, "precision": "fp32"} | more
    finetune(FinetuneConfig(base=str(folder / base), task=task, out=str(folder / out), **small))
