"""What `make demo` says of its two runs, and the commands of the documentation on the folder that it leaves."""

import dataclasses
import importlib.util
import json
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

import intruders
from intruders.checkpoints.opening.open import open_checkpoint
from intruders.checkpoints.stored.locate import DEMO_ADAPTER, DEMO_ADAPTERS, locate
from intruders.cli.main import app
from intruders.errors import SettingError
from tests.docs.pages import READ, blocks
from tests.made_up import made_up_audit

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo", ROOT / "examples" / "demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["demo"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def result(demo: ModuleType, name: str, rate: float, *, late: bool = False) -> Any:
    audit = made_up_audit(6, intruder_rate=rate)
    return demo.Result(name, 0.75, 83, 40, 50.0, not late, audit)


def test_the_words_follow_from_the_numbers(demo: ModuleType) -> None:
    lora, full = result(demo, "rank-1 LoRA", 0.2), result(demo, "full fine-tuning", 0)
    text = " ".join(demo.in_words(lora, full).split())
    assert "70 % of 83 validation sentences" in text
    assert f"rank-1 LoRA left {lora.audit.intruders} intruder dimensions, full fine-tuning none." in text
    assert f"{lora.audit.intruders} of {lora.audit.vectors} vectors" in text
    assert "one run of each" in text


def test_words_where_the_demo_goes_otherwise(demo: ModuleType) -> None:
    none = result(demo, "rank-1 LoRA", 0), result(demo, "full fine-tuning", 0)
    assert "both have 0 intruder dimensions" in " ".join(demo.in_words(*none).split())
    late = result(demo, "rank-1 LoRA", 0.2, late=True), none[1]
    text = " ".join(demo.in_words(*late).split())
    assert "Rank-1 LoRA did not reach the validation accuracy 0.7" in text
    assert "equally good" not in text


def commands_of(page: str, *words: str) -> list[list[str]]:
    """The commands of `intruders` in the code blocks of a page that contain all of these words."""
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"^(?: {4})?\s*(?:\$ )?(intruders [a-z].*)$", text, re.MULTILINE)
    found = [shlex.split(line, comments=True) for line in lines]
    return [command for command in found if set(words) <= set(command)]


PAGES = [str(path.relative_to(ROOT)) for path in READ]


@pytest.mark.models
def test_the_commands_on_the_folder_that_the_demo_leaves(
    demo: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command of README and docs on demo/lora, on a shorter training by the demo's own settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INTRUDERS_CACHE", str(tmp_path / "cache"))
    shorter = dataclasses.replace(demo.settings("lora", Path("demo")), steps=12, match=None)
    intruders.finetune(shorter)
    commands = [command for page in PAGES for command in commands_of(page, "demo/lora")]
    assert {command[1] for command in commands} >= {"mitigate", "scale", "intervene"}
    for command in commands:
        done = CliRunner().invoke(app, command[1:])
        assert done.exit_code == 0, (command, done.output, done.exception)


@pytest.mark.models
def test_the_packaged_adapter_against_dense_decompositions() -> None:
    """The count that the docs show, from W0 + alpha / r B A and two SVDs in double precision."""
    base = open_checkpoint(DEMO_ADAPTERS[DEMO_ADAPTER])
    factors = load_file(locate(DEMO_ADAPTER) / "adapter_model.safetensors")
    config = json.loads((locate(DEMO_ADAPTER) / "adapter_config.json").read_text(encoding="utf-8"))
    found = intruders.audit(None, DEMO_ADAPTER, cache=False)
    assert len(found.matrices) == len(factors) // 2 == 36
    for matrix in found.matrices:
        prefix = f"base_model.model.bert.{matrix.name.removesuffix('.weight')}"
        a, b = (factors[f"{prefix}.lora_{side}.weight"].double().numpy() for side in "AB")
        before = base.read(matrix.name).double().numpy()
        x, _, _ = np.linalg.svd(before, full_matrices=False)
        y, _, _ = np.linalg.svd(before + config["lora_alpha"] / config["r"] * b @ a, full_matrices=False)
        cosines = np.abs(x.T @ y[:, :10]).max(0)
        assert [vector.intruder for vector in matrix.vectors] == (cosines < 0.5).tolist()


@pytest.mark.models
def test_the_line_of_make_demo_in_the_docs_is_of_the_packaged_adapter(
    demo: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    done = CliRunner().invoke(app, ["audit", "--demo", "--no-cache", "--json", "audit.json"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "intruders-demo.html").stat().st_size > 1e6
    # `make demo` trains this adapter: its line in the docs follows from what is packaged.
    trained = json.loads((locate(DEMO_ADAPTER) / "training.json").read_text(encoding="utf-8"))
    audit = intruders.Audit.load(tmp_path / "audit.json")
    result = demo.Result(
        "rank-1 LoRA", trained["validation"]["accuracy"], 0, trained["steps"], 0.0, True, audit
    )
    line = demo.table(result, result).splitlines()[1]
    assert re.split(r"  +", line) in [
        re.split(r"  +", shown) for shown in console_block("make demo").splitlines()
    ]


def console_block(command: str) -> str:
    """What the quickstart shows as the output of a command."""
    page = ROOT / "docs" / "quickstart.md"
    [found] = [block.text for block in blocks(page) if block.text.startswith(f"$ {command}\n")]
    return found


def test_demo_and_a_model_are_refused_together() -> None:
    with pytest.raises(SettingError, match="--demo was given together with the model 'base'"):
        CliRunner().invoke(app, ["audit", "base", "--demo"], catch_exceptions=False)
    with pytest.raises(SettingError, match="run intruders audit --demo"):
        CliRunner().invoke(app, ["audit"], catch_exceptions=False)


@pytest.mark.models
def test_the_demo_without_the_extra_for_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "plotly", None)
    done = CliRunner().invoke(app, ["audit", "--demo"])
    assert done.exit_code == 0
    assert "pip install '.[report]'" in done.stderr
    assert "31 intruder dimensions" in done.stdout
    assert list(tmp_path.iterdir()) == []
