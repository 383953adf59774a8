"""Names in the folder of a model: the parts it is split into, results saved beside it, states of its training."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ...errors import some_of
from .names import natural_order

_SPLIT = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
_SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})(?P<end>\.(?:safetensors|bin))")


def split_names(name: str) -> list[str]:
    """The names of all files of a split model, in order, by one of them; itself alone, if it is of none.

    >>> split_names("m-00002-of-00002.gguf")
    ['m-00001-of-00002.gguf', 'm-00002-of-00002.gguf']
    """
    match = _SPLIT.fullmatch(name)
    if match is None or not 0 < int(match["number"]) <= int(match["count"]):
        return [name]
    count = int(match["count"])
    return [f"{match['stem']}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1)]


def index_of_shard(name: str) -> str | None:
    """The name of the index by which transformers reads a model that a file is a part of; None if it is a whole one.

    >>> index_of_shard("model-00002-of-00002.safetensors"), index_of_shard("model-00001-of-00001.safetensors")
    ('model.safetensors.index.json', None)
    """
    match = _SHARD.fullmatch(name)
    if match is None or int(match["count"]) < 2:
        return None
    return f"{match['stem']}{match['end']}.index.json"


def one_file_each(names: Iterable[str]) -> list[str]:
    """The first file that is there of every model."""
    first_of: dict[str, str] = {}
    for name in sorted(names):
        first_of.setdefault(split_names(name)[0], name)
    return list(first_of.values())


# As commands, pages and a study's runs name them. A record that is written together with the weights is not of these.
SAVED_RESULTS = frozenset({
    "attribution.json", "audit.json", "evaluation.json", "findings.json", "intervention.json", "kl.json",
    "outputs.json", "published.json", "remedies.json", "scale.json", "sequence.json", "study.json",
})  # fmt: skip


def where_training_stopped(folder: Path) -> str:
    """Return what to do with the folder of a training that has not ended; empty for another folder."""
    if (folder / "run.json").is_file():
        return "; its training has not ended; repeat its command to resume it"
    states = sorted(
        (state.name for state in folder.glob("checkpoint-*") if state.is_dir()), key=natural_order
    )
    return (
        f"; its training has not ended; finish it, or pass one of its states: {some_of(states)}"
        if states
        else ""
    )
