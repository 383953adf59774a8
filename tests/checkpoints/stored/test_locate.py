"""Which files of a hub's repository are fetched, by the listing that the hub would give; without the network."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest

from intruders.checkpoints.stored.locate import _downloaded, locate
from intruders.errors import CheckpointError

SPLIT = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]


def list_files(monkeypatch: pytest.MonkeyPatch, files: list[str]) -> list[list[str]]:
    """Make the hub list these files of any model; returns what is fetched, call after call."""
    fetched: list[list[str]] = []

    def model_info(api: object, hub_id: str, *, revision: str | None, timeout: float) -> SimpleNamespace:
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=file) for file in files])

    def snapshot_download(hub_id: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        fetched.append(allow_patterns)
        return "somewhere"

    _downloaded.cache_clear()  # a process asks the hub for an id once
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return fetched


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
    fetched = list_files(monkeypatch, files)
    with pytest.raises(CheckpointError, match=message):
        locate("org/none")
    assert not fetched


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        (
            ["config.json", "model.safetensors", "pytorch_model.bin", "x/y.safetensors"],
            ["config.json", "model.safetensors"],
        ),
        (["README.md", *SPLIT], SPLIT),
    ],
)
def test_the_files_of_one_format_are_fetched(
    monkeypatch: pytest.MonkeyPatch, files: list[str], wanted: list[str]
) -> None:
    fetched = list_files(monkeypatch, files)
    assert locate("org/model") == Path("somewhere")
    assert fetched == [wanted]
