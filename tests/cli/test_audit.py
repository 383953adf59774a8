"""``intruders audit`` as a person types it: what it prints and writes, and what it refuses in one line."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import intruders
from intruders.models.given_model import GivenModel
from intruders.models.put_on_base import named_base_note
from intruders.reports import audit as audit_report
from tests.checkpoints.models import change_config
from tests.commands import environment, in_a_process, in_this_process, refusal
from tests.tiny import save_lora, save_weights

NAMES = [f"model.layers.{i}.self_attn.{kind}.weight" for i in range(3) for kind in ("q_proj", "v_proj")]
CHANGED = NAMES[1:4]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return in_this_process("audit", "--no-cache", *arguments)


def refused(*arguments: str | Path) -> str:
    return refusal("audit", "--no-cache", *arguments)


def succeeded(sarif: Path) -> tuple[bool, list[str]]:
    """What a SARIF file says of its run: whether the tool was successful (3.20.14), and its notifications (3.20.21)."""
    ((invocation,),) = [one["invocations"] for one in json.loads(sarif.read_text())["runs"]]
    told = invocation.get("toolExecutionNotifications", [])
    assert {one["level"] for one in told} <= {"error"}
    return invocation["executionSuccessful"], [one["message"]["text"] for one in told]


def base_weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    found = {name: torch.randn(24, 16, generator=generator) / 4 for name in NAMES}
    return found | {"model.norm.weight": torch.ones(16)}


def tuned_weights() -> dict[str, Tensor]:
    """Three matrices changed; each has one intruder, an equal mix of 16 base vectors."""
    found = base_weights()
    for name in CHANGED:
        u, _, vt = torch.linalg.svd(found[name], full_matrices=False)
        found[name] = found[name] + 20 * torch.outer(u.sum(1) / 4, vt[0])
    return found


def save_spoilt(folder: Path, names: list[str]) -> Path:
    tensors = tuned_weights()
    for name in names:
        tensors[name][3, 3] = float("nan")
    return save_weights(folder / "spoilt", tensors)


def results_in(sarif: Path) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = json.loads(sarif.read_text())["runs"][0]["results"]
    return results


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return save_weights(folder / "base", base_weights()), save_weights(folder / "tuned", tuned_weights())


def test_json_to_standard_output_and_nothing_else(models: tuple[Path, Path]) -> None:
    arguments = (*models, "--json", "-", "--k", "4", "--epsilon", "0.4", "--exact")
    done = in_a_process("audit", "--no-cache", *arguments)
    # All but the seconds are the same, so the other tests spare the process.
    seconds = re.compile(r'"seconds": [\d.e-]+')
    assert seconds.sub("", run(*arguments).stdout) == seconds.sub("", done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    settings, totals = document["settings"], document["totals"]
    assert (settings["k"], settings["epsilon"], settings["exact"]) == (4, 0.4, True)
    assert (totals["matrices"], totals["vectors"], totals["intruders"]) == (3, 12, 3)
    assert [matrix["name"] for matrix in document["matrices"]] == CHANGED
    for matrix in document["matrices"]:
        for index, vector in enumerate(matrix["vectors"]):
            assert (vector["index"], vector["intruder"]) == (index, index == 0)
            assert 0 <= vector["max_cosine"][0] <= vector["max_cosine"][1] <= 1


def test_a_fault_of_the_report_loses_neither_the_result_nor_the_findings(
    models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise RuntimeError("a template is broken")

    monkeypatch.setattr(audit_report, "render_audit", broken)
    files = {name: tmp_path / f"out.{name}" for name in ("json", "sarif", "html")}
    options = [word for name, file in files.items() for word in (f"--{name}", file)]
    done = run(*models, "--fail-above", "0", *options)
    assert done.returncode == 70
    assert "a template is broken" in done.stderr
    assert intruders.Audit.load(files["json"]).intruders == 3
    assert len(results_in(files["sarif"])) > 0
    assert not files["html"].exists()


def test_a_gate_tells_that_nothing_differs(models: tuple[Path, Path], tmp_path: Path) -> None:
    done = run(models[0], models[0], "--fail-above", "0", "--sarif", tmp_path / "out.sarif")
    assert done.returncode == 0
    assert done.stderr == (
        f"nothing differs between '{models[0]}' and '{models[0]}'; check that the paths are the intended ones\n"
    )
    (only,) = results_in(tmp_path / "out.sarif")
    assert (only["ruleId"], only["level"]) == ("nothing-differs", "note")
    without = run(models[0], models[0])
    assert (without.returncode, without.stderr) == (0, "")


def test_a_broken_file_changes_none(models: tuple[Path, Path], tmp_path: Path) -> None:
    out, folder = tmp_path / "out.json", tmp_path / "broken"
    out.write_text("the last result")
    folder.mkdir()
    whole = (models[1] / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-100])
    assert "broken/model.safetensors" in refused(models[0], folder, "--json", out)
    assert out.read_text() == "the last result"


@pytest.mark.parametrize("option", ["--json", "--parquet", "--html"])
def test_outputs_that_cannot_be_written_are_found_out_before_the_work(tmp_path: Path, option: str) -> None:
    """Before: the models given do not even exist, and it is still the output that is complained of."""
    where, sarif = tmp_path / "no" / "such" / "out.x", tmp_path / "out.sarif"
    assert str(where) in refused(tmp_path / "gone", tmp_path / "gone", option, where, "--sarif", sarif)
    assert list(tmp_path.iterdir()) == [sarif]
    (only,) = results_in(sarif)
    assert str(where) in only["message"]["text"]
    assert succeeded(sarif) == (False, [only["message"]["text"]])


def test_interrupted_it_stops_in_one_line_and_writes_nothing(tmp_path: Path) -> None:
    """Ctrl-C in the middle of matrices that take a while, and are large enough to be mapped."""
    generator = torch.Generator().manual_seed(0)
    sides = []
    for name in ("base", "tuned"):
        tensors = {f"layers.{i}.weight": torch.randn(1100, 1100, generator=generator) for i in range(12)}
        sides.append(save_weights(tmp_path / name, tensors))
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", "intruders", "audit", *map(str, sides), "--exact", "--json", str(out)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        maps = Path(f"/proc/{process.pid}/maps")
        while process.poll() is None and "model.safetensors" not in maps.read_text():
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        said, complained = process.communicate(timeout=60)
    assert process.returncode == 130, complained
    assert said == ""
    assert len(complained.strip().splitlines()) <= 1
    assert "Traceback" not in complained
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "tuned"]


def test_a_gate_of_what_cannot_be_compared_does_not_pass(models: tuple[Path, Path], tmp_path: Path) -> None:
    spoilt, sarif = save_spoilt(tmp_path, CHANGED), tmp_path / "out.sarif"
    arguments = (models[0], spoilt, "--skip-non-finite", "--sarif", sarif)
    done = run(*arguments, "--fail-above", "0")
    assert done.returncode == 2
    assert "--fail-above has nothing to count: no matrix could be compared" in done.stderr
    (only,) = results_in(sarif)
    assert only["ruleId"] == "refused"
    assert succeeded(sarif) == (False, [only["message"]["text"]])
    assert run(*arguments).returncode == 0, "without a gate it is an answer"
    assert succeeded(sarif) == (True, [])


@pytest.mark.parametrize("is_base", [False, True])
def test_a_count_over_a_part_of_the_matrices_passes_no_gate(tmp_path: Path, is_base: bool) -> None:
    """A file without one layer, on either side; layer 2 is unchanged, layer 1 has two intruders and layer 0 one."""
    sides = {"base": base_weights(), "tuned": tuned_weights()}
    lost = [name for name in NAMES if name.startswith("model.layers.1.")]
    for name in lost:
        del sides["base" if is_base else "tuned"][name]
    models = [save_weights(tmp_path / side, tensors) for side, tensors in sides.items()]
    sarif = tmp_path / "out.sarif"
    done = run(*models, "--fail-above", "1", "--sarif", sarif)
    assert done.returncode == 2
    side = "base" if is_base else "tuned"
    assert done.stderr == (
        f"error: --fail-above does not count every matrix: 2 matrices could not be compared, the first '{lost[0]}' "
        f"(missing in {side}); leave out what is meant to be absent with --exclude\n"
    )
    assert "1 intruder" in done.stdout
    assert "refused" in [result["ruleId"] for result in results_in(sarif)]
    # Too many in a part are too many in the whole; what is left out by its name is not missed; no gate, no verdict.
    assert run(*models, "--fail-above", "0").returncode == 1
    left_out = run(*models, "--fail-above", "1", "--exclude", "model.layers.1.*")
    assert (left_out.returncode, left_out.stderr) == (0, "")
    without = run(*models)
    assert (without.returncode, without.stderr) == (0, "")


def test_a_gate_tells_what_was_left_out_as_not_finite(models: tuple[Path, Path], tmp_path: Path) -> None:
    spoilt, sarif = save_spoilt(tmp_path, CHANGED[:2]), tmp_path / "out.sarif"
    arguments = (models[0], spoilt, "--skip-non-finite", "--sarif", sarif)
    done = run(*arguments, "--fail-above", "1")
    assert done.returncode == 0
    assert done.stderr == "2 matrices with NaN or infinity left out of the count (--skip-non-finite)\n"
    assert ("matrices-left-out", "warning") in [(one["ruleId"], one["level"]) for one in results_in(sarif)]
    assert run(*arguments, "--fail-above", "0").returncode == 1
    assert succeeded(sarif) == (True, []), "the answer is no, and the run was whole"
    assert run(*arguments).stderr == ""


@pytest.mark.parametrize("named", ["itself", "a copy", "another", "gone"])
def test_a_base_that_was_not_named_is_noted(models: tuple[Path, Path], tmp_path: Path, named: str) -> None:
    """As ``intruders evaluate`` notes it; a copy of a folder is no other model."""
    factors = {NAMES[0].removesuffix(".weight"): (torch.ones(24, 1), torch.ones(1, 16))}
    adapter, base = save_lora(tmp_path / "adapter", factors), models[0]
    places = {"itself": base, "a copy": tmp_path / "copy", "another": models[1], "gone": tmp_path / "gone"}
    shutil.copytree(base, places["a copy"])
    change_config(adapter, base_model_name_or_path=str(places[named]))
    saved = tmp_path / "audit.json"
    assert run(base, adapter, "--json", saved).returncode == 0
    notes = json.loads(saved.read_text())["settings"]["matched"]
    wanted = (
        f"adapter {str(adapter)!r} names {str(places[named])!r} as its base and is measured on {str(base)!r}; if these "
        "are other weights, so are the numbers"
    )
    assert [note for note in notes if "names" in note] == ([wanted] if named in ("another", "gone") else [])
    assert notes.count(wanted) == named_base_note(GivenModel(str(adapter), str(base))).count(wanted)
