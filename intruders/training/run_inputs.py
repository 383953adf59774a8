"""The inputs of a run besides its settings: the content of its data, of its base and of an adapter it starts from.

A path in the settings does not identify content: a file can change between a kill and a resume.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import xxhash

from ..data.corpora import Corpus
from ..data.task import Task
from ..errors import SettingError
from ..system.digests import add_files
from ..system.files import user_path
from .finetune_config import FinetuneConfig
from .run_folder import RunFolder

# What a model computes depends on these; what else is in its folder, such as an audit, may come and go.
_ENDINGS = (".safetensors", ".bin", ".gguf", ".index.json")
_NAMES = (
    "config.json",
    "adapter_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
)
# What else tokenizers are made of. These have a digest of their own.
_TOKENIZER_ENDINGS = (".model", ".spm", ".tiktoken")
_TOKENIZER_NAMES = ("vocab.txt", "special_tokens_map.json", "added_tokens.json", "chat_template.json")


def models_of(config: FinetuneConfig, location: str) -> dict[str, str]:
    """Return a digest of the base at ``location`` and of every adapter that the settings name, by setting.

    The digest of a Hub model is its commit in the cache; models that are not downloaded yet are omitted.
    """
    sources = {"base": location, "start_from": config.start_from, "budget_pilot": config.budget_pilot}
    return contents_of({name: source for name, source in sources.items() if source is not None})


def contents_of(models: Mapping[str, str]) -> dict[str, str]:
    """Return the digests of models by their names, and by ``tokenizer of NAME`` of what else makes their tokenizers."""
    digests = {name: content_of_model(source) for name, source in models.items()}
    for name, source in models.items():
        folder = user_path(source)
        inside = list(folder.iterdir()) if folder.is_dir() else []
        files = [f for f in inside if f.name in _TOKENIZER_NAMES or f.name.endswith(_TOKENIZER_ENDINGS)]
        digests[f"tokenizer of {name}"] = _digest(files) if files else None
    return {name: digest for name, digest in digests.items() if digest is not None}


def require_same(record: dict[str, Any], out: Path, task: Task, models: dict[str, str]) -> None:
    """Raise SettingError if the run of the record used other rows, or another base or adapter."""
    before = record.get("task", {}).get("data", {})
    now = task.fingerprint()
    for split in now:
        if split in before and before[split] != now[split]:
            then, rows = before[split].get("rows"), now[split]["rows"]
            change = f"{then} rows then, {rows} now" if then != rows else f"{rows} rows, of another content"
            raise SettingError(
                f"out {str(out)!r} contains a run on other data ({split} split of task {task.name!r}: {change}); "
                "restore the data, choose another folder, or remove that one"
            )
    known = record.get("models", {})
    for name, digest in models.items():
        if known.get(name, digest) != digest:
            raise SettingError(
                f"out {str(out)!r} contains a run from another {name}, whose files have changed since; "
                "restore them, choose another folder, or remove that one"
            )


def require_same_text(run: RunFolder, name: str, used: str, corpus: Corpus) -> None:
    """Raise SettingError if the run in the folder has begun, and ``used`` another text for the setting ``name``."""
    if not (run.path / "run.json").is_file():
        return
    before = run.record.get(name)
    if before is not None and before["digest"] != corpus.digest:
        raise SettingError(
            f"out {str(run.path)!r} contains a run that {used} other text of {corpus.name!r} "
            f"({before['documents']} documents then, {len(corpus.documents)} now); restore the text, choose "
            "another folder, or remove that one"
        )


def content_of_model(source: str) -> str | None:
    """Return a digest of weights, configs and tokenizer in a folder; of a hub id its commit in the cache, or None.

    Unlike ``checkpoints.opening.many_sources.digest_of`` it is for what a training depends on, and downloads nothing.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    folder = user_path(source)
    if not folder.is_dir():
        try:
            cached = try_to_load_from_cache(source, "config.json")
        except (HFValidationError, OSError):
            return None
        return Path(cached).parent.name if isinstance(cached, str) else None
    return _digest(file for file in folder.iterdir() if file.name in _NAMES or file.name.endswith(_ENDINGS))


def _digest(files: Iterable[Path]) -> str:
    digest = xxhash.xxh3_128()
    add_files(digest, sorted(files))
    return digest.hexdigest()
