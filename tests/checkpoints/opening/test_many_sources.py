"""Several models at once: which ones a collection of the Hub, or a list in a file, stands for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import xxhash

from intruders.checkpoints.opening.many_sources import digest_of, each_source, wherever_it_is
from intruders.errors import SettingError
from intruders.system.digests import add_files
from tests.checkpoints.models import not_to_be_read, refused
from tests.tiny import write_files_of_a_model


def test_models_of_a_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    items = [
        SimpleNamespace(item_id="org/one", item_type="model"),
        SimpleNamespace(item_id="org/data", item_type="dataset"),
    ]
    monkeypatch.setattr(huggingface_hub, "get_collection", lambda slug: SimpleNamespace(items=items))
    assert each_source(["collection:org/some-123"]).models == ["org/one"]

    def unknown(slug: str) -> None:
        raise ValueError("no such collection")

    monkeypatch.setattr(huggingface_hub, "get_collection", unknown)
    with refused("'org/some-123' cannot be fetched"):
        each_source(["collection:org/some-123"])


def test_a_list_with_a_byte_order_mark_names_its_first_adapter(tmp_path: Path) -> None:
    """As an editor of Windows saves it."""
    listed = tmp_path / "list.txt"
    listed.write_bytes("\ufeffone\r\ntwo\r\n".encode())
    assert each_source([f"@{listed}"]).models == ["one", "two"]


def test_states_of_a_training_are_in_the_order_of_their_steps(tmp_path: Path) -> None:
    """In a folder and by a glob; a name may contain digits that are no number."""
    names = [*(f"checkpoint-{step}" for step in (50, 200, 1000, 10000)), "checkpoint-\u00b2"]
    for name in reversed(names):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text("{}")
    expected = [str(tmp_path / name) for name in names]
    assert each_source([str(tmp_path)]).models == expected
    assert each_source([str(tmp_path / "checkpoint-*")]).models == expected


def test_the_steps_beside_a_final_adapter_are_named(tmp_path: Path) -> None:
    """The output folder of a training, which is the final adapter."""
    run = tmp_path / "run"
    for folder in (run, run / "checkpoint-100", run / "checkpoint-200"):
        folder.mkdir()
        (folder / "adapter_config.json").write_text("{}")
    (run / "runs").mkdir()  # of TensorBoard
    steps = [str(run / f"checkpoint-{step}") for step in (100, 200)]
    alone = each_source([str(run)])
    assert (alone.models, list(alone.passed_over)) == ([str(run)], steps)
    assert set(alone.passed_over.values()) == {"also an adapter; pass it too"}
    every = each_source([str(run), str(run / "checkpoint-*")])
    assert (every.models, every.passed_over) == ([str(run), *steps], {})


def test_a_folder_that_may_not_be_read_is_passed_over_or_a_model_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening it tells why; the other adapters are audited."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text("{}")
    not_to_be_read(tmp_path / "two", monkeypatch)
    found = each_source([str(tmp_path)])
    assert found.models == [str(tmp_path / "one")]
    assert found.passed_over == {str(tmp_path / "two"): "cannot be read (Permission denied)"}
    inside = str(tmp_path / "two" / "deeper")
    assert each_source([str(tmp_path / "two"), inside]).models == [str(tmp_path / "two"), inside]
    with refused("Permission denied"):
        digest_of(inside)


@pytest.mark.parametrize("name", ["~nobody-of-this-name/a", "a" * 300])
def test_what_cannot_be_a_path_is_a_model_that_is_refused_when_it_is_opened(name: str) -> None:
    assert each_source([name]).models == [name]
    assert wherever_it_is(name) == name
    with refused(r"does not exist|cannot be a path"):
        digest_of(name)
    with refused("matches no file or folder", SettingError):
        each_source([f"{name}*"])
    with refused(r"the list '@.*' cannot be read", SettingError):
        each_source([f"@{name}"])


def test_the_digest_contains_the_weights_that_a_plugin_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two models with one config, whose weights are of a format that only an installed plugin knows."""
    plugin = SimpleNamespace(suffixes=(".npz",), read=None)
    monkeypatch.setattr("intruders.checkpoints.opening.open.plugins_of", lambda group: {"npz": plugin})
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text('{"model_type": "llama"}')
        np.savez(folder / "weights.npz", weight=np.full(3, len(name)))
    wanted = xxhash.xxh3_128(b"1.0 ")
    add_files(wanted, [tmp_path / "first" / name for name in ("config.json", "weights.npz")])
    assert digest_of(str(tmp_path / "first")) == wanted.hexdigest()
    assert digest_of(str(tmp_path / "first")) != digest_of(str(tmp_path / "second"))


def test_the_digest_of_a_split_model_contains_every_part(tmp_path: Path) -> None:
    parts = [tmp_path / f"m-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    for part in parts:
        part.write_bytes(part.name.encode())
    (tmp_path / "other.gguf").write_bytes(b"another model")
    before = [digest_of(str(part)) for part in parts]
    parts[2].write_bytes(b"other numbers")
    after = [digest_of(str(part)) for part in parts]
    assert all(old != new for old, new in zip(before, after, strict=True))
    (tmp_path / "other.gguf").write_bytes(b"changed")
    assert [digest_of(str(part)) for part in parts] == after


def test_the_digest_is_of_what_is_read_of_a_model_with_its_weight_in_a_sum(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    write_files_of_a_model(model)
    files = b"config.json 2 {}model.safetensors 7 numbersspecial_tokens_map.json 2 []tokenizer.json 5 words"
    assert digest_of(str(model)) == xxhash.xxh3_128(b"1.0 " + files).hexdigest()
    both = f"{model}@0.5+{model}@0.25"
    assert digest_of(both) == xxhash.xxh3_128(b"0.5 " + files + b"0.25 " + files).hexdigest()


@pytest.mark.parametrize("name", ["audit.json", "scale.json", "evaluation.json", "remedies.json"])
def test_a_result_saved_beside_a_model_is_not_in_its_digest(name: str, tmp_path: Path) -> None:
    """A tutorial saves the audit of a full fine-tuning in the run's folder. What else is there counts as it did."""
    write_files_of_a_model(tmp_path)
    (tmp_path / "run.json").write_text("run")
    files = ("config.json", "model.safetensors", "run.json", "special_tokens_map.json", "tokenizer.json")
    wanted = xxhash.xxh3_128(b"1.0 ")
    add_files(wanted, [tmp_path / file for file in files])
    before = digest_of(str(tmp_path))
    (tmp_path / name).write_text("{}")
    assert before == digest_of(str(tmp_path)) == wanted.hexdigest()
    (tmp_path / "vocab.json").write_text("{}")
    assert digest_of(str(tmp_path)) != before
