"""The GitHub Action: its script by bash, with the variables that GitHub sets; and whether its description fits it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from intruders.audits.result.audit_result import Audit
from tests.commands import environment
from tests.experiments.healed_models import adapter_of
from tests.tiny import save_llama

ROOT = Path(__file__).parents[1]
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
SCRIPT = ROOT / "action" / "audit.sh"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base, and an adapter with updates that are large beside its weights, so that there are intruders."""
    folder = tmp_path_factory.mktemp("models")
    base = save_llama(folder / "base")
    adapter_of(base, folder / "adapter", ("q_proj", "up_proj"), size=1.0)
    return base, folder / "adapter"


def _run(
    tmp_path: Path, workspace: Path = ROOT, **inputs: str
) -> tuple[subprocess.CompletedProcess[str], str, dict[str, str]]:
    """The script's end, its job summary and its outputs."""
    summary, output = tmp_path / "summary.md", tmp_path / "output"
    given = {
        **environment(),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
        "RUNNER_TEMP": str(tmp_path),
        "GITHUB_STEP_SUMMARY": str(summary),
        "GITHUB_OUTPUT": str(output),
        **dict.fromkeys(("BASE", "FAIL_ABOVE", "OPTIONS"), ""),
        **inputs,
    }
    how: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 300, "check": False}
    done = subprocess.run(["bash", str(SCRIPT)], env=given, cwd=workspace, **how)
    lines = output.read_text().splitlines() if output.exists() else []
    return done, summary.read_text(encoding="utf-8"), dict(line.split("=", 1) for line in lines)


def test_above_the_number_it_fails_and_says_so_and_runs_no_module_of_the_checked_out_repository(
    models: tuple[Path, Path], tmp_path: Path
) -> None:
    workspace = tmp_path / "workspace"
    (workspace / "intruders").mkdir(parents=True)
    evil = f"import pathlib\npathlib.Path({str(tmp_path / 'run')!r}).touch()\nraise SystemExit(0)\n"
    for module in ("intruders/__init__", "intruders/__main__", "shlex", "typing", "torch"):
        (workspace / f"{module}.py").write_text(evil)
    base, adapter = models
    done, summary, outputs = _run(tmp_path, workspace, BASE=str(base), TUNED=str(adapter), FAIL_ABOVE="0")
    assert not (tmp_path / "run").exists()
    assert done.returncode == 1
    assert outputs.keys() == {"audit", "sarif"}
    audit = Audit.load(outputs["audit"])
    assert audit.intruders > 0
    assert f"**Failed**: {audit.intruders} intruders, more than the 0 that --fail-above allows." in summary
    assert "| q_proj | 2 |" in summary
    [run] = json.loads(Path(outputs["sarif"]).read_text(encoding="utf-8"))["runs"]
    assert run["properties"]["counts"]["intruders-above-limit"] == 1
    assert "intruder dimensions in" in done.stdout
    [install] = [step for step in ACTION["runs"]["steps"] if "pip install" in step.get("run", "")]
    assert install["env"] == {"PYTHONSAFEPATH": "1"}


def test_up_to_the_number_it_passes_with_the_base_that_the_adapter_names_and_options_as_a_shell_splits_them(
    models: tuple[Path, Path], tmp_path: Path
) -> None:
    """Nothing in the options is run."""
    options = f"""--k 3 --epsilon 0.4 --exclude "*.q_proj.*"\n  --cache '{tmp_path}/a `touch run` folder'"""
    done, summary, outputs = _run(tmp_path, TUNED=str(models[1]), FAIL_ABOVE="40", OPTIONS=options)
    assert done.returncode == 0, done.stderr
    assert summary.startswith("**Passed**: at most 40 intruders are allowed.")
    audit = Audit.load(outputs["audit"])
    assert (audit.k, audit.epsilon) == (3, 0.4)
    assert audit.settings["exclude"] == ["*.q_proj.*"]
    assert {matrix.name.split(".")[-2] for matrix in audit.matrices} == {"up_proj"}
    assert not (ROOT / "run").exists()


def test_options_that_no_shell_would_take_are_no_audit(models: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = models
    done, summary, outputs = _run(tmp_path, BASE=str(base), TUNED=str(adapter), OPTIONS="--k 3 --exclude '*")
    assert done.returncode == 2
    assert 'error: options is "--k 3 --exclude \'*": No closing quotation' in summary
    assert not outputs


def test_a_model_that_equals_its_base_passes_with_a_word_about_it(
    models: tuple[Path, Path], tmp_path: Path
) -> None:
    base = str(models[0])
    done, summary, _ = _run(tmp_path, BASE=base, TUNED=base, FAIL_ABOVE="0")
    assert done.returncode == 0
    assert summary.startswith(
        f"**Passed**: at most 0 intruders are allowed.\n\nnothing differs between '{base}' and '{base}'; "
        "check that the paths are the intended ones.\n"
    )


def test_what_cannot_be_audited_is_in_the_summary_and_nothing_in_an_input_is_run(tmp_path: Path) -> None:
    done, summary, outputs = _run(tmp_path, TUNED=f"$(touch {tmp_path}/run);`touch {tmp_path}/run`")
    assert done.returncode == 2
    assert summary.startswith("**No audit**")
    assert "error: " in summary
    assert outputs.keys() == {"sarif"}
    [run] = json.loads(Path(outputs["sarif"]).read_text(encoding="utf-8"))["runs"]
    assert run["properties"]["counts"] == {"refused": 1}
    assert not (tmp_path / "run").exists()


def test_an_interpreter_that_fails_is_no_verdict(tmp_path: Path) -> None:
    (tmp_path / "intruders.py").write_text("raise ImportError('a broken installation')")
    inputs = {"TUNED": "adapter", "FAIL_ABOVE": "0", "PYTHONPATH": str(tmp_path)}
    done, summary, outputs = _run(tmp_path, tmp_path, **inputs)
    assert done.returncode == 2
    assert summary.startswith("**No audit**")
    assert "a broken installation" in summary
    assert not outputs


def test_the_description_sets_what_the_script_reads() -> None:
    """By GitHub's schema of a composite action: the required keys, and a shell for every step."""
    assert {"name", "description", "runs"} <= ACTION.keys()
    assert ACTION["runs"]["using"] == "composite"
    steps = ACTION["runs"]["steps"]
    assert all(step["shell"] == "bash" for step in steps if "run" in step)
    [step] = [step for step in steps if step.get("id") == "audit"]
    read = set(re.findall(r"\$\{?([A-Z_]+)", SCRIPT.read_text(encoding="utf-8")))
    of_runner = ("GITHUB_", "RUNNER_", "TMPDIR")
    assert set(step["env"]) == {name for name in read if not name.startswith(of_runner)}
    used = {re.fullmatch(r"\$\{\{ inputs\.([a-z-]+) \}\}", value)[1] for value in step["env"].values()}  # type: ignore[index]
    assert used == set(ACTION["inputs"]) - {"upload-sarif", "category"}
    assert not any("${{" in step.get("run", "") for step in steps), "an input would be run as code"
    [upload] = [step for step in steps if "uses" in step]
    assert upload["uses"].startswith("github/codeql-action/upload-sarif@")
    assert upload["with"]["sarif_file"] == ACTION["outputs"]["sarif"]["value"]
    assert "inputs.upload-sarif == 'true'" in upload["if"]
    # A job that uploads two files of one category is refused by GitHub.
    assert upload["with"]["category"] == "${{ inputs.category }}"
    assert ACTION["inputs"]["category"]["default"] == "intruders"
    assert all(entry["description"] for entry in ACTION["inputs"].values())
    assert str(SCRIPT.relative_to(ROOT)) in step["run"]
