"""Digests of models that commands run."""

from __future__ import annotations

from pathlib import Path

import pytest

from intruders.checkpoints.opening.many_sources import digest_of
from intruders.checkpoints.stored.locate import DemoModel
from intruders.models import base_model
from intruders.models.base_model import base_model_location
from intruders.models.model_digest import digest_of_model


def test_a_demo_model_in_gguf_has_one_digest_before_its_first_use_and_after(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def write(_: Path, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"of the copy")

    (tmp_path / "model.gguf").write_bytes(b"of the package")
    monkeypatch.setenv("INTRUDERS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(base_model, "_write_dequantized", write)
    monkeypatch.setattr(DemoModel, "packaged", lambda _: tmp_path / "model.gguf")
    before = digest_of_model("smollm2-135m")
    location = base_model_location("smollm2-135m")
    assert digest_of_model("smollm2-135m") == before == digest_of(location)


def test_any_other_model_has_the_digest_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert digest_of_model(str(tmp_path)) == digest_of(str(tmp_path))
