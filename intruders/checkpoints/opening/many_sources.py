"""Many models by few words: a glob, a file with a list, a folder of adapters, a collection of the hub."""

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import xxhash

from ...errors import CheckpointError, SettingError, first_line, os_reason
from ...system.digests import add_files
from ...system.files import as_utf8, user_path
from ..adapters.other_programs import MLX_WEIGHTS
from ..adapters.peft_adapter import ADAPTER_CONFIG
from ..stored.json_file import read_json_object
from ..stored.locate import ALIASES, CONFIGS, SAVED_RESULTS, WEIGHTS, index_of_shard, locate, split_names
from ..stored.names import natural_order
from .model_sum import each_part, is_sum, split_sum
from .open import Source, suffixes_of_plugins

_COLLECTION = "collection:"
_INDEX = ".index.json"
# What an entry of a folder is that is passed over though it has weights.
MODEL = "a complete model"
NO_CONFIG = f"no {ADAPTER_CONFIG} beside its weights"
DEEPER = "adapters deeper down"


def each_source(given: Iterable[Source]) -> tuple[list[Source], dict[str, str]]:
    """Every model that is meant, once, in the order given; and by path what was passed over in folders.

    A glob stands for what it matches, ``@list.txt`` for its lines, ``collection:owner/slug`` for the models of a
    collection of the hub, and a folder that is no model for the adapters in its folders and the files of weights beside
    them. SettingError for a glob or list of nothing, CheckpointError for a collection that cannot be had.
    """
    passed_over: dict[str, str] = {}
    sources: list[Source] = []
    for source in given:
        if isinstance(source, str | os.PathLike):
            sources += _meant_by(os.fspath(source), passed_over)
        else:
            sources.append(source)
    if all(isinstance(source, str) for source in sources):
        sources = list(dict.fromkeys(sources))
    return sources, {as_utf8(path): what for path, what in passed_over.items() if path not in sources}


def _meant_by(text: str, passed_over: dict[str, str]) -> Iterator[str]:
    if text.startswith("@"):
        for line in _lines_of(text[1:]):
            yield from _meant_by(line, passed_over)
    elif text.startswith(_COLLECTION):
        from huggingface_hub import get_collection

        slug = text.removeprefix(_COLLECTION)
        try:
            collection = get_collection(slug)
        except Exception as error:  # whatever the hub's client raises
            raise CheckpointError(
                f"the collection '{slug}' cannot be fetched from the hub ({type(error).__name__}: "
                f"{first_line(error)}); expected owner/slug of a collection; fix the name, or pass the adapters one "
                "by one"
            ) from None
        yield from (item.item_id for item in collection.items if item.item_type == "model")
    elif any(mark in text for mark in "*?[") and not os.path.exists(text):
        paths = sorted(glob.glob(str(user_path(text))), key=natural_order)
        if not paths:
            raise SettingError(
                f"'{text}' matches no file or folder; expected a glob of adapters; fix the pattern"
            )
        yield from paths
    else:
        yield from _adapters_in(text, passed_over)


def _lines_of(file: str) -> list[str]:
    try:
        lines = [line.strip() for line in user_path(file).read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, ValueError) as error:
        raise SettingError(
            f"the list '@{file}' cannot be read ({os_reason(error)}); "
            "expected a text file with a model on each line; fix the path"
        ) from None
    lines = [line for line in lines if line and not line.startswith("#")]
    if nested := [line for line in lines if line.startswith("@")]:
        raise SettingError(f"the list '@{file}' names the list '{nested[0]}'; pass both lists instead")
    return lines


def _adapters_in(text: str, passed_over: dict[str, str]) -> list[str]:
    """The folder itself, or what is to be audited in a folder of adapters; a path that cannot be read is itself.

    A folder with a config of its own is a model, and adapters in its folders are passed over. A file of weights beside
    adapters is one more source.
    """
    folder = user_path(text)
    try:
        shown = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except (OSError, ValueError):
        return [text]
    # Of a training, the steps in their order: checkpoint-200 before checkpoint-1000. Not Path.is_file, which raises
    # PermissionError for a path within a folder that may not be read.
    entries = {
        str(entry): os.path.isfile(entry / ADAPTER_CONFIG)
        for entry in sorted(shown, key=lambda entry: natural_order(entry.name))
    }
    if any(os.path.isfile(folder / name) for name in (ADAPTER_CONFIG, "config.json")):
        # The steps beside the final adapter in a training's folder would otherwise seem to be audited with it.
        further = [entry for entry, is_adapter in entries.items() if is_adapter]
        passed_over.update(dict.fromkeys(further, "also an adapter; pass it too"))
        return [text]
    if not any(entries.values()):
        return [text]
    adapters = []
    for entry, is_adapter in entries.items():
        if is_adapter or (os.path.isfile(entry) and entry.endswith(WEIGHTS)):
            adapters.append(entry)
            continue
        try:
            passed_over[entry] = _what_it_is(Path(entry))
        except OSError as error:
            passed_over[entry] = f"cannot be read ({os_reason(error)})"
    return adapters


def _what_it_is(entry: Path) -> str:
    if not entry.exists():
        return "a link to nothing"
    if not entry.is_dir():
        return "no weights"
    inside = [path.name for path in entry.iterdir()]
    if not inside:
        return "an empty folder"
    # Weights of a model, and not the state of an optimizer or data.
    of_model = (".safetensors", ".gguf", _INDEX, *suffixes_of_plugins())
    named = ("adapter_model", "pytorch_model", "consolidated")
    if any(name.endswith(of_model) or (name.endswith(WEIGHTS) and name.startswith(named)) for name in inside):
        return MODEL if "config.json" in inside else NO_CONFIG
    if next(entry.rglob(ADAPTER_CONFIG), None) is not None:
        return DEEPER
    return "a folder without an adapter"


def wherever_it_is(source: str) -> str:
    """The same model for a process with another working directory: every path in it in full."""

    def whole_path(text: str) -> str:
        path = user_path(text)
        return str(path.absolute()) if text not in ALIASES and os.path.exists(path) else text

    return each_part(source, whole_path)


def digest_of(source: str) -> str:
    """128 bits of what is read of a model: of an adapter its config and tensors."""
    digest = xxhash.xxh3_128()
    for part, weight in split_sum(source) if is_sum(source) else [(source, 1.0)]:
        digest.update(f"{weight!r} ".encode())
        add_files(digest, _files_of(locate(part)))
    return digest.hexdigest()


def _files_of(path: Path) -> list[Path]:
    """Configs and weights at a path, not what training left beside an adapter, nor results saved beside a model."""
    if path.is_dir():
        files = [file for file in path.iterdir() if file.is_file() and file.name not in SAVED_RESULTS]
        if (path / ADAPTER_CONFIG).is_file():
            return sorted(file for file in files if file.name.startswith(("adapter_", MLX_WEIGHTS)))
        suffixes = (*WEIGHTS, *CONFIGS, *suffixes_of_plugins())
        chosen = [file for file in files if file.name.endswith(suffixes)]
        return sorted({*chosen, *(shard for file in chosen for shard in _shards(file))})
    beside = [path.parent / name for name in (ADAPTER_CONFIG, "config.json")]
    index = path.with_name(index_of_shard(path.name) or path.name)
    parts = [path.parent / name for name in split_names(path.name)]
    others = [index, *_shards(index), *parts, *beside]
    return [path, *(file for file in dict.fromkeys(others) if file != path and file.is_file())]


def _shards(index: Path) -> list[Path]:
    """The files of weights that an index names; a broken index is read, and refused, elsewhere."""
    if not index.name.endswith(_INDEX) or not index.is_file():
        return []
    names = read_json_object(index).get("weight_map")
    if not isinstance(names, dict):
        return []
    files = {index.parent / name for name in names.values() if isinstance(name, str)}
    return sorted(file for file in files if file.is_file())
