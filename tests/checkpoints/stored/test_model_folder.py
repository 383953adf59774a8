"""Names of split GGUF models."""

from __future__ import annotations

from intruders.checkpoints.stored.model_folder import index_of_shard, one_file_each, split_names


def test_names_that_are_of_no_split_model() -> None:
    for name in (
        "m.gguf",
        "m-00000-of-00002.gguf",
        "m-00003-of-00002.gguf",
        "m-1-of-2.gguf",
        "m-00001-of-00002.bin",
    ):
        assert split_names(name) == [name]


def test_the_index_of_a_shard_as_transformers_names_it() -> None:
    assert index_of_shard("pytorch_model-00001-of-00003.bin") == "pytorch_model.bin.index.json"
    for name in (
        "model.safetensors",
        "model-1-of-2.safetensors",
        "m-00001-of-00002.gguf",
        "model.safetensors.index.json",
    ):
        assert index_of_shard(name) is None


def test_one_file_of_each_model() -> None:
    names = ["b-00002-of-00002.gguf", "b-00001-of-00002.gguf", "a-00002-of-00002.gguf", "c.gguf"]
    assert one_file_each(names) == ["a-00002-of-00002.gguf", "b-00001-of-00002.gguf", "c.gguf"]
