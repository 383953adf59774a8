"""`intruders scale` as a person types it."""

import json
from pathlib import Path

import pytest

from tests.commands import printed, refusal


def test_the_base_cache_changes_no_scale(folder: Path, tmp_path: Path) -> None:
    command, kept = ("scale", folder / "base", folder / "tuned", "--json", "-"), tmp_path / "kept"
    document, same = (json.loads(printed(*command, *cache)) for cache in (["--no-cache"], ["--cache", kept]))
    assert list(kept.rglob("*.safetensors"))
    assert same["largest_scale"] == pytest.approx(document["largest_scale"], rel=0.02)


def test_a_scale_that_is_named_is_written_without_a_search(folder: Path, tmp_path: Path) -> None:
    models = (folder / "base", folder / "tuned")
    written = json.loads(printed("scale", *models, "--at", "0.5", "--out", tmp_path / "json", "--json", "-"))
    assert (written["written"]["scale"], written["written"]["form"]) == (0.5, "adapter")
    searched = ("--no-cache", "--target", "0", "--out", tmp_path / "again")
    assert "largest update scale without intruders" in printed("scale", *models, "--at", "0.5", *searched)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--as checkpoint", "as is 'checkpoint', which is for a model to write"),
        ("--force", "force is given, which is for a model to write"),
        ("--allow 0.5", "allow is 0.5, which is for scales that are measured"),
        ("--dtype float16", "dtype is 'float16', which is for scales that are measured"),
        ("--prompt question", "prompt is 'question', which is for scales that are measured"),
        ("--at 0.5 --k 4", "k is 4, which is for the search of critical scales; pass --target N too"),
        ("--nats 0", "nats is 0; expected nats per token above 0 and at most 1"),
        ("--nats 0.1 --k 4", "k is 4, which is for the search of critical scales"),
        ("--nats 0.1 --at 0.5 --out out", "nats is 0.1, which chooses a scale; leave it out, or --at"),
        ("--nats 0.1 --loss-on pydoc", "nats is 0.1, which chooses a scale; leave it out, or --at"),
        ("--nats 0.1 --include *q_proj*", "leave the selection out"),
        ("--at 0.5", "pass --out FOLDER"),
        ("--out out", "no scale was given"),
        ("--task word-problems --out out", "no text to measure forgetting on"),
        # It would be measured with every tensor scaled, and written with some.
        ("--task word-problems --loss-on pydoc --include *q_proj*", "leave the selection out"),
        ("--nats 0.1 --no-cache", "--nats has no answer: no nats are predicted, because the base is not pre"),
        ("--task word-problems --epsilon 0.3", "epsilon is 0.3, which is for the search of critical scales"),
    ],
)
def test_an_option_that_nothing_reads_or_that_needs_another_is_refused(
    folder: Path, options: str, said: str
) -> None:
    assert said in refusal("scale", folder / "base", folder / "tuned", *options.split())


def test_a_model_that_is_its_base_has_nothing_to_scale(folder: Path) -> None:
    text = printed("scale", folder / "base", folder / "base", "--no-cache")
    assert text.startswith("Nothing to scale: ")
    said = refusal("scale", folder / "base", folder / "base", "--no-cache", "--nats", "0.1")
    assert "--nats has no answer: nothing differs between" in said
