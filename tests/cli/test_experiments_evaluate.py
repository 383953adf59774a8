"""`intruders evaluate` as a person types it."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.commands import in_this_process, refusal
from tests.tiny import save_llama, with_update


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    llama = save_llama(folder / "llama")
    head = load_file(llama / "model.safetensors")["lm_head.weight"]
    # Surer of everything that it says, and no better at it.
    with_update(llama, folder / "worse", "lm_head.weight", 20 * head)
    (folder / "notes.txt").write_text("\n\n".join(f"Paragraph {i}. " + "word " * 120 for i in range(30)))
    return folder


def test_a_gate_on_the_rise_of_the_loss(place: Path, tmp_path: Path) -> None:
    """By the lower end of the interval that the same command writes."""
    command = ("evaluate", place / "worse", "--base", place / "llama", "--loss-on", place / "notes.txt")
    few = ("--max-documents", "6")
    assert in_this_process(*command, *few, "--out", tmp_path / "out").returncode == 0
    low = json.loads((tmp_path / "out" / "evaluation.json").read_text())["losses"][0]["difference"]["low"]
    assert low > 0
    below, above = (in_this_process(*command, *few, "--fail-above", f"{low * share}") for share in (0.9, 1.1))
    assert (below.returncode, above.returncode) == (1, 0)
    assert "nats that --fail-above allows on" in below.stderr
    assert "pass --base and --loss-on" in refusal("evaluate", place / "llama", "--fail-above", "0.1")


def test_a_step_that_lost_it(place: Path, tmp_path: Path) -> None:
    llama, worse, text = (
        place / "llama",
        place / "worse",
        ("--loss-on", place / "notes.txt", "--max-documents", "6"),
    )
    copy = shutil.copytree(llama, tmp_path / "copy")
    series = ("evaluate", llama, "--base", llama, "--also", copy, "--also", worse)
    done = in_this_process(*series, *text, "--fail-above", "0.001")
    assert (done.returncode, done.stderr.count("--fail-above allows")) == (1, 1)
    *_, unchanged, lost, told = done.stdout.splitlines()
    assert unchanged.endswith("+0.000 [+0.000, +0.000]  +0.000 [+0.000, +0.000]")
    assert told == f"after '{llama}': '{worse}' lost most, {lost.split('  ')[-1]} nats per token"
    assert "expected a base and a text, and no task" in refusal("evaluate", llama, "--also", worse, *text)
    assert "expected every model once" in refusal(*series, "--also", worse, *text)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--loss-on", "pydoc", "--force"], "force is given, which is for a folder"),
        (["--loss-on", "nowhere"], "corpus 'nowhere' is not known"),
        (["--task", "~nobody-here/rows.jsonl"], "'~nobody-here/rows.jsonl' does not"),
        (["--loss-on", "~nobody-here/a.txt"], "'~nobody-here/a.txt' is not known"),
    ],
)
def test_errors_are_one_line(place: Path, options: list[str], said: str) -> None:
    assert said in refusal("evaluate", place / "llama", *options)
