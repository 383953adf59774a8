"""Where models lie: paths, ids, aliases, and the names in their folders."""

import json
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file

import intruders
from intruders.audits.result.audit_result import Audit
from intruders.checkpoints.stored.locate import HubOrigin, _downloaded, locate
from intruders.reports.audit_command import audit_command
from intruders.reports.model_card import card_section
from tests.checkpoints.models import refused
from tests.commands import in_this_process
from tests.hub_cache import offline_hub, snapshot

NAME = "model.layers.0.self_attn.q_proj.weight"
COMMITS = {"main": "a" * 40, "v2": "b" * 40}
ADAPTER = "c" * 40


def base(scale: float = 1.0) -> torch.Tensor:
    return scale * torch.eye(8)[:6] * torch.arange(6, 0, -1)[:, None]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two commits of org/base, a branch and a tag, and one adapter that belongs to the tag."""
    folder = offline_hub(tmp_path / "hub", monkeypatch)
    for scale, (revision, commit) in enumerate(COMMITS.items(), start=1):
        files = snapshot(folder, "org/base", revision, commit)
        save_file({NAME: base(scale)}, files / "model.safetensors")
        (files / "config.json").write_text("{}", encoding="utf-8")
    files = snapshot(folder, "org/adapter", "main", ADAPTER)
    stem = f"base_model.model.{NAME.removesuffix('.weight')}"
    save_file(
        {f"{stem}.lora_A.weight": torch.eye(8)[7:], f"{stem}.lora_B.weight": 20 * torch.ones(6, 1)},
        files / "adapter_model.safetensors",
    )
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["q_proj"]}
    config |= {"base_model_name_or_path": "org/base", "revision": "v2"}
    (files / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def audited(base: str | None, tuned: str) -> Audit:
    return intruders.audit(base, tuned, cache=False)


@pytest.mark.parametrize(
    ("given", "revision", "commit"),
    [
        ("org/base", None, "main"),
        ("org/base@v2", "v2", "v2"),
        (f"org/base@{COMMITS['v2']}", COMMITS["v2"], "v2"),
        (None, "v2", "v2"),  # as PEFT notes it beside the base that the adapter names
    ],
)
def test_a_revision_chooses_the_commit_and_is_recorded(
    hub: Path, given: str | None, revision: str | None, commit: str
) -> None:
    found = audited(given, "org/adapter")
    assert found.base_hub == (HubOrigin("org/base", revision, COMMITS[commit]),)
    assert found.tuned_hub == (HubOrigin("org/adapter", None, ADAPTER),)
    largest = 6.0 * (1 if commit == "main" else 2)  # of the base of that commit
    assert found.matrices[0].base_singular_values[0] == pytest.approx(largest)


def test_a_weight_may_follow_a_revision(hub: Path) -> None:
    found = audited("org/base@v2", "org/adapter@main@0.5+org/adapter@0.25")
    assert found.tuned_hub == (
        HubOrigin("org/adapter", "main", ADAPTER),
        HubOrigin("org/adapter", None, ADAPTER),
    )
    whole = audited("org/base@v2", "org/adapter")
    assert found.matrices[0].update.frobenius == pytest.approx(0.75 * whole.matrices[0].update.frobenius)


def test_files_keep_the_commits_and_a_command_makes_the_audit_again(hub: Path, tmp_path: Path) -> None:
    found = audited("org/base@v2", "org/adapter")
    for name in ("audit.json", "audit.parquet"):
        found.save(tmp_path / name)
        loaded = Audit.load(tmp_path / name)
        assert (loaded.base_hub, loaded.tuned_hub) == (found.base_hub, found.tuned_hub)
    document = json.loads((tmp_path / "audit.json").read_text(encoding="utf-8"))
    assert document["base"] == {
        "source": "org/base@v2",
        "hub": [{"repository": "org/base", "revision": "v2", "commit": COMMITS["v2"]}],
    }
    command = audit_command(found)
    assert command is not None
    assert command.startswith(f"intruders audit org/base@{COMMITS['v2']} org/adapter@{ADAPTER} ")
    assert f"`org/base@v2` (commit `{COMMITS['v2']}`)" in card_section(found)
    again = in_this_process(*command.split()[1:], "--no-cache", "--json", tmp_path / "again.json")
    assert again.returncode == 0, again.stderr
    assert Audit.load(tmp_path / "again.json").base_hub[0].commit == COMMITS["v2"]


def test_a_snapshot_given_as_a_path_is_known_by_its_commit(hub: Path) -> None:
    folder = hub / "models--org--base" / "snapshots" / COMMITS["v2"]
    assert audited(str(folder), "org/adapter").base_hub == (HubOrigin("org/base", None, COMMITS["v2"]),)


@pytest.mark.parametrize("given", ["org/base@v3", "org/none@v2"])
def test_a_revision_that_is_not_there_is_refused_by_its_name(hub: Path, given: str) -> None:
    with refused(f"'{given}' is not a file or folder here, and the hub cannot be reached"):
        audited(given, "org/adapter")


SPLIT = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]


def list_files(monkeypatch: pytest.MonkeyPatch, files: list[str]) -> Mock:
    """Make the hub list these files of any model; returns what fetches them."""
    siblings, fetch = [SimpleNamespace(rfilename=file) for file in files], Mock(return_value="somewhere")
    _downloaded.cache_clear()  # a process asks the hub for an id once
    model_info = Mock(return_value=SimpleNamespace(siblings=siblings))
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    return fetch


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ["README.md", "config.json", "unet/model.safetensors", "vae/model.bin", "vae/config.json"],
            r"'org/none' has no weights at the top of its repository; .*folders 'unet', 'vae', and pass it",
        ),
        (["README.md"], r"'org/none' has no weights at the top of its repository; .*; pass another model"),
        (["a.Q4_0.gguf", "a.Q8_0.gguf"], r"'org/none' contains 2 GGUF models, one a quantization"),
        ([*SPLIT, "a.gguf"], r"'org/none' contains 2 GGUF models, one a quantization"),
    ],
)
def test_what_a_repository_lacks_is_said(
    monkeypatch: pytest.MonkeyPatch, files: list[str], message: str
) -> None:
    fetch = list_files(monkeypatch, files)
    with refused(message):
        locate("org/none")
    fetch.assert_not_called()


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        (
            ["config.json", "model.safetensors", "pytorch_model.bin", "x/y.safetensors"],
            ["config.json", "model.safetensors"],
        ),
        (["README.md", *SPLIT], SPLIT),
        (["README.md", "config.json", "last.ckpt"], ["config.json", "last.ckpt"]),
    ],
)
def test_the_files_of_one_format_are_fetched(
    monkeypatch: pytest.MonkeyPatch, files: list[str], wanted: list[str]
) -> None:
    fetch = list_files(monkeypatch, files)
    assert locate("org/model") == Path("somewhere")
    fetch.assert_called_once_with("org/model", revision=None, allow_patterns=wanted)


def test_a_url_is_no_model() -> None:
    with refused("'s3://bucket/base' is a URL, and models are read from files"):
        locate("s3://bucket/base")
