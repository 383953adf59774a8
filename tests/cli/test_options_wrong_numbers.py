"""Every number that a command takes: a wrong one is refused in one line that quotes it, before a weight is read."""

import re
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import transformers

from intruders.checkpoints.formats import safetensors
from intruders.cli.main import app
from intruders.models import loading
from tests.commands import in_this_process
from tests.tiny import save_llama, short_task, short_texts

WRONG = ("x", "-1", "nan")
# A negative number of these means something, as a scale that points the other way does.
SIGNED = {"mitigate --scale", "intervene --scales"}


WORKING = {"audit", "fleet", "inspect", "evaluate", "attribute", "scale", "intervene", "remedies", "heal"}
WORKING |= {"mitigate", "finetune", "sequence", "prepare"}


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """By command, arguments with which its work would begin."""
    folder = tmp_path_factory.mktemp("models")
    model, task, out = str(save_llama(folder / "base")), short_task(folder), str(folder / "out")
    both, on = [model, model], ["--loss-on", str(short_texts(folder / "text.jsonl", 8))]
    training = ["--base", model, "--out", out, "--steps", "1"]
    return {
        "audit": both,
        "fleet": [*both, "--out", out],
        "inspect": [model],
        "evaluate": [model, *on, "--task", task],
        "attribute": [*both, *on, "--task", task],
        "scale": both,
        "intervene": [*both, *on],
        "remedies": [*both, *on, "--task", task],
        "heal": [*both, *on, "--task", task, "--out", out],
        "mitigate": [*both, "--scale", "0", "--out", out],
        "finetune": [*training, "--task", task],
        "sequence": [*training, "--tasks", f"{task},{task}"],
        "prepare": [model],
    }


def numbers(command: str) -> list[str]:
    """The options of a command that take one number or several."""
    functions = {
        one.name or one.callback.__name__: one.callback for one in app.registered_commands if one.callback
    }
    hints = get_type_hints(functions[command])
    return [
        f"--{name.replace('_', '-')}"
        for name, hint in hints.items()
        if re.search(r"\b(int|float)\b", str(hint))
    ]


class ReadError(Exception):
    """A weight was read."""


def read(*_: Any, **__: Any) -> None:
    raise ReadError


@pytest.mark.parametrize("command", sorted(WORKING))
def test_a_wrong_number_is_refused_before_a_weight_is_read(
    command: str, valid: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for owner, name in (
        (safetensors, "_read"),
        (loading, "load_model"),
        (transformers.PreTrainedModel, "from_pretrained"),
    ):
        monkeypatch.setattr(owner, name, read)
    accepted = {}
    for option in numbers(command):
        for value in WRONG:
            if value == "-1" and f"{command} {option}" in SIGNED:
                continue
            result = in_this_process(command, *valid[command], option, value, cwd=tmp_path)
            lines = result.stderr.strip().splitlines()
            is_refused = result.returncode == 2 and len(lines) == 1 and value in lines[0]
            if not is_refused:
                accepted[f"{option} {value}"] = (result.returncode, lines)
    assert accepted == {}
    assert list(tmp_path.iterdir()) == []
