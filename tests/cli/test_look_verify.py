"""``intruders verify`` as a person types it: what it prints, its exit status, and what it refuses in one line."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.checkpoints.models import change_config
from tests.commands import in_this_process, refusal
from tests.experiments.healed_models import TARGETS, adapter_of
from tests.measures.small_server import Server, running, served
from tests.tiny import save_llama, save_lora, save_weights

NAMES = [f"model.layers.{layer}.self_attn.{kind}.weight" for layer in (0, 1) for kind in ("q_proj", "v_proj")]
NORM = "model.norm.weight"


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return in_this_process("verify", *arguments)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, an adapter of scale 2, and models: merged, with a matrix as it was, at scale 1, with another norm."""
    folder, generator = tmp_path_factory.mktemp("models"), torch.Generator().manual_seed(0)
    base = {name: torch.randn(24, 16, generator=generator).bfloat16() for name in NAMES}
    base[NORM] = torch.ones(16)
    factors = {
        name: (torch.randn(24, 2, generator=generator) / 10, torch.randn(2, 16, generator=generator))
        for name in NAMES
    }

    def merged(scale: float) -> dict[str, Tensor]:
        updates = {name: scale * up @ down for name, (up, down) in factors.items()}
        return base | {name: (base[name].float() + update).bfloat16() for name, update in updates.items()}

    save_weights(folder / "base", base)
    of_modules = {name.removesuffix(".weight"): both for name, both in factors.items()}
    save_lora(folder / "adapter", of_modules, scale=2.0)
    save_weights(folder / "merged", merged(2))
    save_weights(folder / "one-missing", merged(2) | {NAMES[1]: base[NAMES[1]]})
    save_weights(folder / "unscaled", merged(1))
    save_weights(folder / "norm", merged(2) | {NORM: 2 * base[NORM]})
    return folder


def test_one_matrix_without_the_update_and_a_merge_without_the_scale(folder: Path, tmp_path: Path) -> None:
    done = run(folder / "base", folder / "adapter", folder / "unscaled")
    assert done.returncode == 1
    assert "\napplied at another scale (4): the adapter's own scale of 2 was left out\n" in done.stdout
    sarif = tmp_path / "verify.sarif"
    done = run(folder / "base", folder / "adapter", folder / "one-missing", "--sarif", sarif)
    assert done.returncode == 1
    [finding] = json.loads(sarif.read_text())["runs"][0]["results"]
    assert finding["ruleId"] == "update-not-applied"
    assert "not applied in" in finding["message"]["text"]
    assert run(folder / "base", folder / "adapter", folder / "merged", "--sarif", sarif).returncode == 0
    assert json.loads(sarif.read_text())["runs"][0]["results"] == []
    assert "4 matrices; applied: 3, not applied: 1" in done.stdout
    assert f"\n{NAMES[1]}\n  not applied, scale " in done.stdout
    assert NAMES[0] not in done.stdout
    assert NAMES[0] in run(folder / "base", folder / "adapter", folder / "one-missing", "--verbose").stdout


def test_other_tensors_count_unless_they_are_allowed(folder: Path) -> None:
    done = run(folder / "base", folder / "adapter", folder / "norm")
    assert done.returncode == 1
    assert "changed outside the adapter: 1 tensor (other numbers: 1)\n" in done.stdout
    assert f"  {NORM}: other numbers\n" in done.stdout
    allowed = run(folder / "base", folder / "adapter", folder / "norm", "--allow-other")
    assert allowed.returncode == 0
    assert "1 other tensor changed, which is accepted" in allowed.stdout


def test_nothing_that_can_be_told(folder: Path, tmp_path: Path) -> None:
    faint = change_config(shutil.copytree(folder / "adapter", tmp_path / "adapter"), lora_alpha=1e-7)
    done = run(folder / "base", faint, folder / "base")
    assert done.returncode == 3
    assert "4 matrices; too small to tell: 4" in done.stdout


def test_json_to_a_file_and_to_standard_output(folder: Path, tmp_path: Path) -> None:
    arguments = (folder / "base", folder / "adapter", folder / "norm")
    printed = run(*arguments, "--json", "-")
    document = json.loads(printed.stdout)
    assert (printed.returncode, document["exit_status"]) == (1, 1)
    assert document["others"] == [{"name": NORM, "reason": "other numbers"}]
    assert document["counts"] == {"applied": 4}
    file = tmp_path / "verdicts.json"
    assert run(*arguments, "--json", file, "--allow-other").returncode == 0
    written = json.loads(file.read_text())
    assert written["exit_status"] == 0
    assert written["matrices"] == document["matrices"]


def test_a_file_that_cannot_be_written_is_a_finding_too(folder: Path, tmp_path: Path) -> None:
    sarif, file = tmp_path / "verify.sarif", tmp_path / "no" / "verdicts.json"
    paths = [folder / name for name in ("base", "adapter", "merged")]
    assert f"cannot write '{file}'" in refusal("verify", *paths, "--json", file, "--sarif", sarif)
    [written] = json.loads(sarif.read_text())["runs"]
    [result] = written["results"]
    assert result["ruleId"] == "refused"
    assert f"cannot write '{file}'" in result["message"]["text"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    base = save_llama(tmp_path_factory.mktemp("pair") / "base")
    return base, adapter_of(base, base.parent / "tuned", TARGETS)


def test_a_served_adapter(pair: tuple[Path, str]) -> None:
    base, adapter = pair
    models = {"base": served(base), "tuned": served(base, adapter)}
    with running(Server(models, {"tuned": "base"})) as url:
        asked = ("--endpoint", f"{url}/v1/", "--model", "tuned")
        done = run(base, adapter, *asked)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"served   {url}/v1, model 'tuned'; its base: 'base'\napplied, scale 1 +- " in done.stdout
        models["tuned"] = models["base"]
        printed = run(base, adapter, *asked, "--json", "-")
        document = json.loads(printed.stdout)
        assert (printed.returncode, document["exit_status"], document["verdict"]) == (1, 1, "not applied")
        said = refusal("verify", base, adapter, *asked, "--split-fused")
        assert "split-fused is given, which is for a merged model" in said
    assert "merged is None and model is None; expected MERGED alone" in refusal("verify", base, adapter)
    assert "pass one of the two" in refusal("verify", base, adapter, base, *asked)


@pytest.mark.parametrize(
    ("server", "said"),
    [
        ({}, "answered with status 404 ({\"error\": {\"message\": \"The model `tuned` does not"),
        ({}, "pass one of its models with --model: 'base'"),
        ({"key": "another"}, "/models' answered with status 401; expected an OpenAI-compatible server"),
        ({"key": "another"}, "set OPENAI_API_KEY to a key that it accepts"),
        ({"body": b"<html>"}, "answered with something that is not JSON"),
        ({"body": b"[]"}, "answered with JSON of another form"),
        ({"body": b'{"choices": [{"text": "", "logprobs": null}]}'}, "gives no log-probabilities of model 'tuned'"),
        ({"wait": 3.0}, "/completions' gave no answer (timed out)"),
    ],
)  # fmt: skip
def test_a_server_that_refuses(
    pair: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, server: dict[str, Any], said: str
) -> None:
    """Each in one line, without the key that was sent."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setattr("intruders.models.endpoint.TIMEOUT", 0.5)
    with running(Server({"base": served(pair[0])}, **server)) as url:
        asked = ("verify", *pair, "--endpoint", url, "--model", "tuned")
        line = refusal(*asked)
    assert said in line
    assert "secret" not in line
    assert "gave no answer ([Errno 111] Connection refused)" in refusal(*asked)


def test_a_key_is_not_carried_elsewhere(pair: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with running(Server({"tuned": served(*pair)})) as other, running(Server({}, elsewhere=other)) as url:
        line = refusal("verify", *pair, "--endpoint", url, "--model", "tuned")
    assert "/v1/models' answered with status 302; expected" in line


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("localhost:8000", "'localhost:8000'; expected one such as http://localhost:8000"),
        ("http://user:sk-secret@localhost:8000", "with a user or a query; expected one"),
        ("http://localhost:8000?key=sk-secret", "with a user or a query; expected one"),
        ("http://[::1", "'http://[::1'; expected one"),
    ],
)
def test_an_address_that_is_none(pair: tuple[Path, str], given: str, said: str) -> None:
    line = refusal("verify", *pair, "--endpoint", given, "--model", "tuned")
    assert f"endpoint is an address {said}" in line
    assert "secret" not in line
