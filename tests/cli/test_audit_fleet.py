"""``intruders fleet`` as a person types it: tables, exit statuses, and what it refuses in one line."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from intruders.audits.fleet.fleet_files import FleetFiles
from tests.checkpoints.models import saved, tiny_llama
from tests.commands import forked, in_this_process, printed, refusal
from tests.mitigation.hot import hot_llama
from tests.tiny import save_weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and beside it three adapters in a folder: with intruders, without, and for another base."""
    folder = tmp_path_factory.mktemp("fleet")
    saved(tiny_llama(), folder / "base")
    saved(hot_llama(1), folder / "adapters" / "strong")
    saved(hot_llama(2, 0.01), folder / "adapters" / "weak")
    another = tiny_llama(hidden_size=32, intermediate_size=48)
    saved(hot_llama(3, 1.0, another), folder / "adapters" / "of another")
    return folder


def run(folder: Path, out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    base, adapters = str(folder / "base"), str(folder / "adapters")
    return in_this_process("fleet", base, f"{adapters}/*", "--out", out, "--no-cache", *arguments)


def ended(base: Path, out: Path, *arguments: str | Path) -> tuple[int, str]:
    """The status of a fleet, and what it says beside its table."""
    done = in_this_process("fleet", base, "--out", out, "--no-cache", *arguments)
    return done.returncode, done.stderr


def test_gates(folder: Path, tmp_path: Path) -> None:
    out, sarif = tmp_path / "out", tmp_path / "fleet.sarif"
    above = run(folder, out, "--fail-above", "0", "--fail-refused", "--sarif", str(sarif))
    assert above.returncode == 1
    assert "more intruders than the 0 that --fail-above allows in 1 adapter," in above.stderr
    assert "strong" in above.stderr
    [first] = json.loads(sarif.read_text())["runs"]
    failing = {
        (result["ruleId"], Path(location["physicalLocation"]["artifactLocation"]["uri"]).parent.name)
        for result in first["results"]
        if result["level"] == "error"
        for location in result["locations"]
    }
    assert failing == {("intruders-above-limit", "strong"), ("refused", "of%20another")}
    refused = run(folder, out, "--fail-above", "10000", "--fail-refused")
    assert refused.returncode == 1
    assert "of another" in refused.stderr
    assert run(folder, out, "--fail-above", "10000").returncode == 0
    assert run(folder, out, "--fail-above", "0", "--sarif", str(sarif)).returncode == 1
    [again] = json.loads(sarif.read_text())["runs"]
    prints = [[result["partialFingerprints"] for result in each["results"]] for each in (first, again)]
    assert prints[0] == prints[1]
    assert len({one["primaryLocationLineHash"] for one in prints[0]}) == len(prints[0])


def test_a_wrong_option_is_one_line(folder: Path, tmp_path: Path) -> None:
    command = ("fleet", folder / "base", f"{folder}/adapters/*", "--out", tmp_path / "out")
    assert "cpus is 4.0, which is for workers on Ray; pass --ray too" in refusal(*command, "--cpus", "4")


LAYERS = 3


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and adapters of several blocks, in sizes of the Krylov method, and the fleet of an undisturbed run."""
    folder = tmp_path_factory.mktemp("large")
    settings = {"num_hidden_layers": LAYERS, "hidden_size": 192, "intermediate_size": 256}
    settings["num_key_value_heads"] = 4
    saved(tiny_llama(**settings), folder / "base")
    for seed in range(3):
        saved(hot_llama(seed, 0.5, tiny_llama(**settings)), folder / "adapters" / str(seed))
    assert run(folder, folder / "whole").returncode == 0
    return folder


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_killed_it_goes_on_with_what_is_finished(large: Path, tmp_path: Path, stop: signal.Signals) -> None:
    """The tables are those of an undisturbed run. It is killed when its first block is kept."""
    arguments = [f"{large}/base", f"{large}/adapters/*", "--no-cache", "--out", str(tmp_path / "out")]
    waiting, keep = multiprocessing.get_context("fork").Event(), FleetFiles.keep

    def keep_one(files: FleetFiles, *given: Any) -> None:
        keep(files, *given)
        waiting.set()
        time.sleep(600)

    def first_block() -> None:
        with mock.patch.object(FleetFiles, "keep", keep_one):
            done = in_this_process("fleet", *arguments)
        (tmp_path / "said").write_text(done.stderr)
        os._exit(done.returncode)

    process = forked(first_block)
    assert waiting.wait(60)
    assert process.pid is not None
    os.kill(process.pid, stop)
    process.join(60)
    assert process.exitcode == (130 if stop == signal.SIGINT else -signal.SIGKILL)
    assert stop != signal.SIGINT or "finished blocks are kept" in (tmp_path / "said").read_text()
    blocks = tmp_path / "out" / "blocks"
    assert len(list(blocks.glob("*.parquet"))) == 1
    kept: list[str] = []
    with mock.patch.object(FleetFiles, "keep", lambda *given: (kept.append(given[1]), keep(*given))):
        assert in_this_process("fleet", *arguments).returncode == 0
    assert len(kept) == LAYERS - 1, "the block that is there is not judged again"
    assert not list(blocks.glob("*.parquet"))  # the adapters have files of their own
    again, whole = (pq.read_table(out / "vectors").to_pandas() for out in (tmp_path / "out", large / "whole"))
    keys, columns = ["adapter", "name", "index"], ["adapter", "name", "index", "intruder", "certificate"]
    again, whole = (table.sort_values(keys)[columns].values.tolist() for table in (again, whole))
    assert again == whole


def test_a_broken_file_and_what_is_no_adapter_do_not_hide_the_adapters(folder: Path, tmp_path: Path) -> None:
    """The file is refused by itself; all else is counted and named in one line."""
    mixed = shutil.copytree(folder / "adapters", tmp_path / "mixed")
    weights = (mixed / "strong" / "adapter_model.safetensors").read_bytes()
    (mixed / "broken.safetensors").write_bytes(weights[:300])
    (mixed / "notes.txt").write_text("some notes")
    (mixed / "empty").mkdir()
    (mixed / "dangling").symlink_to(tmp_path / "nowhere")
    (mixed / ".hidden").mkdir()
    shutil.copytree(folder / "base", mixed / "full")
    shutil.copytree(mixed / "weak", mixed / "nested" / "deep" / "weak")
    arguments = (str(folder / "base"), str(mixed), "--no-cache", "--out", str(tmp_path / "out"))
    said = printed("fleet", *arguments, "--json", str(tmp_path / "fleet.json"))
    assert "in 2 adapters" in said
    assert "2 refused" in said
    [line] = [line for line in said.splitlines() if line.startswith("passed over")]
    assert line.startswith("passed over 5 entries: ")
    folders = {"empty": "an empty folder", "full": "a complete model", "nested": "adapters deeper down"}
    for name, what in (folders | {"dangling": "a link to nothing", "notes.txt": "no weights"}).items():
        assert f"{mixed / name} ({what})" in line
    document = json.loads((tmp_path / "fleet.json").read_text())
    assert len(document["passed_over"]) == 5
    refused = [Path(row["adapter"]).name for row in document["adapters"] if row["status"] == "refused"]
    assert refused == ["broken.safetensors", "of another"]


@pytest.mark.parametrize(
    "kind", ["a complete model", "no adapter_config.json beside its weights", "adapters deeper down"]
)
def test_a_gate_does_not_pass_over_weights(folder: Path, tmp_path: Path, kind: str) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(folder / "adapters" / "weak", mixed / "weak")
    for name in ("empty", "config alone", "notes"):
        (mixed / name).mkdir()
    (mixed / "config alone" / "config.json").write_text("{}")
    (mixed / "notes" / "notes.txt").write_text("some notes")
    (mixed / "notes" / "optimizer.pt").write_bytes(b"the state of an optimizer")
    sarif, entry = tmp_path / "out.sarif", mixed / "with weights"
    arguments = (folder / "base", mixed, "--no-cache", "--out", tmp_path / "out", "--sarif", sarif)
    gate = ("--fail-above", "100", "--fail-refused")
    done = in_this_process("fleet", *arguments, *gate)
    assert (done.returncode, done.stderr) == (0, "")
    if kind == "a complete model":
        shutil.copytree(folder / "base", entry)
    else:
        inside = entry / "deep" if kind == "adapters deeper down" else entry
        shutil.copytree(folder / "adapters" / "strong", inside)
        if inside == entry:
            (entry / "adapter_config.json").unlink()
    done = in_this_process("fleet", *arguments, *gate)
    assert done.returncode == 1
    assert done.stderr == (
        f"passed over 1 entry with weights, the first '{entry}' ({kind}); pass it by its own path, or move it\n"
    )
    (only,) = json.loads(sarif.read_text())["runs"][0]["results"]
    assert only["ruleId"] == "refused"
    assert only["message"]["text"].startswith(f"{entry}: passed over, because it is not an adapter ({kind});")
    assert in_this_process("fleet", *arguments, *gate[:2]).returncode == 0


def test_a_fault_of_the_report_loses_neither_the_result_nor_the_verdict(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "report.html").mkdir(parents=True)
    (tmp_path / "out" / "report.html" / "kept").touch()
    (tmp_path / "out" / "vectors").mkdir()
    files = {name: tmp_path / f"out.{name}" for name in ("json", "sarif")}
    options = [str(word) for name, file in files.items() for word in (f"--{name}", file)]
    done = run(folder, tmp_path / "out", "--fail-above", "0", *options)
    assert done.returncode == 2
    above, error = done.stderr.splitlines()
    assert above.startswith("more intruders than the 0 that --fail-above allows in 1 adapter,")
    assert "report.html" in error
    assert "in 2 adapters" in done.stdout
    assert json.loads(files["json"].read_text())["totals"]["intruders"] > 0
    rules = [result["ruleId"] for result in json.loads(files["sarif"].read_text())["runs"][0]["results"]]
    assert "intruders-above-limit" in rules


def test_a_gate_passes_what_is_unchanged_and_not_what_is_not_audited(folder: Path, tmp_path: Path) -> None:
    assert ended(folder / "base", tmp_path / "out", folder / "base", "--fail-above", "0")[0] == 0
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"broken")
    status, line = ended(folder / "base", tmp_path / "broken", broken, "--fail-above", "0")
    assert (status, line.count("\n")) == (2, 1)
    assert line.startswith("error: none of 1 adapter could be audited, the first '")


def test_results_are_not_scattered_among_other_files(folder: Path, tmp_path: Path) -> None:
    before = sorted(folder.rglob("*"))
    done = run(folder, folder / "adapters")
    assert (done.returncode, done.stdout) == (2, "")
    assert "is not empty and not a fleet: it contains 'of another', 'strong', 'weak'" in done.stderr
    assert sorted(folder.rglob("*")) == before
    (tmp_path / "notes.txt").write_text("some notes")
    assert run(folder, tmp_path).returncode == 2


@pytest.mark.parametrize("patterns", [["--exclude", "*"], ["--include", "*norm*"], ["--include", "*embed*"]])
@pytest.mark.parametrize("command", ["audit", "fleet", "scale"])
def test_patterns_leaving_no_matrix(folder: Path, tmp_path: Path, command: str, patterns: list[str]) -> None:
    gate = {"audit": ["--fail-above", "0"], "fleet": ["--fail-above", "0", "--out", str(tmp_path / "out")]}
    adapter = str(folder / "adapters" / "strong")
    line = refusal(command, folder / "base", adapter, *patterns, *gate.get(command, []))
    assert f"{patterns[0][2:]} '{patterns[1]}' leaves none of the 16 matrices" in line
    assert ("--include-embeddings" in line) == (patterns[1] == "*embed*")


def test_an_adapter_without_alpha_says_that_its_scale_was_taken_as_one(folder: Path, tmp_path: Path) -> None:
    """Under the table, in JSON, and in the row of a fleet; one with its config says nothing."""
    base, complete = str(folder / "base"), folder / "adapters" / "strong"
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(complete / "adapter_model.safetensors", bare)
    note = "14 modules store no alpha: their scale is taken as 1"
    for adapter, wanted in [(bare, True), (complete, False)]:
        done = in_this_process("audit", base, adapter, "--json", tmp_path / "audit.json", "--no-cache")
        assert (f"note:       {note}" in done.stdout) == wanted
        assert (note in json.loads((tmp_path / "audit.json").read_text())["settings"]["matched"]) == wanted
    in_this_process("fleet", base, bare, complete, "--no-cache", "--out", tmp_path / "out")
    rows = pq.read_table(tmp_path / "out" / "adapters.parquet").to_pylist()
    assert [note in (row["matched_by"] or "") for row in rows] == [True, False]


@pytest.mark.parametrize("kind", ["NaN or infinity", "other shape", "missing in"])
def test_a_gate_does_not_pass_what_cannot_be_compared(folder: Path, tmp_path: Path, kind: str) -> None:
    """Alone it is an error, as in an audit; beside adapters with an answer the gate fails."""
    tensors = load_file(folder / "base" / "model.safetensors")
    changed = {
        "NaN or infinity": lambda name, tensor: (name, torch.full_like(tensor, torch.nan)),
        "other shape": lambda name, tensor: (name, tensor[..., :-1].contiguous()),
        "missing in": lambda name, tensor: (name.replace("q_proj", "elsewhere"), tensor),
    }[kind]
    moved = dict(changed(*each) if "q_proj" in each[0] else each for each in tensors.items())
    spoilt = save_weights(tmp_path / "spoilt", moved)
    weak, sarif = folder / "adapters" / "weak", tmp_path / "out.sarif"
    status = partial(ended, folder / "base", tmp_path / "out", "--skip-non-finite")
    assert status(spoilt)[0] == 0, "without a gate the table is the answer"
    for gate in (["--fail-above", "0"], ["--fail-refused"]):
        code, said = status(spoilt, *gate, "--sarif", sarif)
        assert code == 2
        assert f"no matrix could be compared in 1 adapter, the first '{spoilt}'; " in said
        assert kind in said
        (log,) = json.loads(sarif.read_text())["runs"]
        (only,) = log["results"]
        assert (only["ruleId"], kind in only["message"]["text"]) == ("refused", True)
        assert log["invocations"][0]["executionSuccessful"] is False
        assert status(spoilt, weak, *gate)[0] == 1
        assert status(weak, *gate)[0] == 0
    audit = in_this_process("audit", folder / "base", spoilt, "--skip-non-finite", "--fail-above", "0")
    assert audit.returncode == 2


def test_a_gate_does_not_pass_what_is_compared_in_part(folder: Path, tmp_path: Path) -> None:
    tensors = load_file(folder / "base" / "model.safetensors")
    lost = "model.layers.1.self_attn.q_proj.weight"
    moved = {**tensors, "model.layers.0.self_attn.q_proj.weight": tensors[lost] * 1.5}
    del moved[lost]
    part, sarif = save_weights(tmp_path / "part", moved), tmp_path / "out.sarif"
    status = partial(ended, folder / "base", tmp_path / "out", "--sarif", sarif)
    assert status(part) == (0, "")
    code, said = status(part, "--fail-above", "100")
    assert code == 2
    assert said.startswith(
        f"error: not every matrix could be compared in 1 adapter, the first '{part}'; 1 matrix could not be compared, "
        f"the first '{lost}' (missing in tuned); leave out"
    )
    results = json.loads(sarif.read_text())["runs"][0]["results"]
    assert "refused" in [result["ruleId"] for result in results]
    assert status(part, folder / "adapters" / "weak", "--fail-above", "100")[0] == 1
    assert status(part, "--fail-above", "100", "--exclude", "*.1.self_attn.*")[0] == 0
