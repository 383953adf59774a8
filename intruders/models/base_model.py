"""Base models for training: what transformers loads, trains and saves, by alias, path or hub id; and their digests."""

import io
from collections.abc import Iterable, Mapping
from contextlib import redirect_stderr
from pathlib import Path

import xxhash

from ..checkpoints.opening.other_formats import other_format
from ..checkpoints.stored.locate import DEMO_MODELS, DemoModel, locate, where_training_stopped
from ..checkpoints.stored.names import natural_order
from ..errors import CacheError, CheckpointError, DiskFullError, os_reason, some_of
from ..system.digests import add_files
from ..system.files import user_path
from ..system.folders import atomic_folder, follow_umask


def base_model_location(base: str) -> str:
    """Return what transformers' ``from_pretrained`` can load for ``base``: a folder, or an unchanged Hub id.

    Raises MissingDependencyError when the package of an alias is not installed, CheckpointError when a path
    does not exist or is not a model folder.
    """
    if base in DEMO_MODELS:
        model = DEMO_MODELS[base]
        return str(_converted(model) if model.is_gguf else model.packaged())
    if is_path(base):
        return model_folder(base)
    # transformers takes a revision apart from the id; in the hub's cache, its files are a folder as any other.
    return str(locate(base)) if "@" in base else base


def is_path(base: str) -> bool:
    """Return whether a base is given as a path, which need not exist, and not as a Hub id."""
    try:
        return base.startswith(("/", ".", "~")) or base.count("/") > 1 or user_path(base).exists()
    except OSError:
        return True


def model_folder(base: str) -> str:
    """Return the absolute path of a model's folder; CheckpointError for what transformers does not load from there."""
    path, demos = user_path(base), ", ".join(DEMO_MODELS)
    expected = f"expected a folder written by save_pretrained, a hub id, or one of {demos}"
    try:
        if path.exists() and (other := other_format(path)):
            raise CheckpointError(f"base {base!r} {other}")
        without_config = path.is_dir() and not (path / "config.json").is_file()
        if (without_config and any(path.glob("*.gguf"))) or (path.is_file() and path.suffix == ".gguf"):
            raise CheckpointError(
                f"base {base!r} is a GGUF file, which transformers does not train or save; expected a folder written "
                "by save_pretrained; write one (intruders scale GGUF TUNED --at 0 --as checkpoint --out FOLDER), and "
                "pass it"
            )
        if without_config:
            models = ("config.json", "adapter_config.json")
            inside = [
                entry.name for entry in path.iterdir() if any((entry / name).is_file() for name in models)
            ]
            if inside:
                raise CheckpointError(
                    f"{base!r} contains models in folders of their own: {some_of(sorted(inside, key=natural_order))}; "
                    "pass one of these"
                )
            raise CheckpointError(
                f"base {base!r} has no config.json; {expected}{where_training_stopped(path)}"
            )
        if not path.is_dir():
            raise CheckpointError(f"base {base!r} is not a model folder; {expected}")
        return str(path.resolve())
    except OSError as error:  # of the base that an adapter names, which can be in the home of another user
        raise CheckpointError(
            f"base {base[:200]!r} cannot be read ({os_reason(error)}); expected a folder written by save_pretrained "
            f"that you may read, a hub id, or one of {demos}"
        ) from None


def _converted(model: DemoModel) -> Path:
    # transformers loads a quantized GGUF file, and then refuses to train or save it: a copy is de-quantized once.
    gguf, target = model.packaged(), model.converted()
    if (target / "config.json").is_file():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(target) as unfinished:
            _write_dequantized(gguf, unfinished)
            follow_umask(unfinished)
    except (OSError, CheckpointError, DiskFullError) as error:
        # Another process may have finished first: its copy is the same.
        if not (target / "config.json").is_file():
            reason = "the disk is full" if isinstance(error, DiskFullError) else os_reason(error)
            raise CacheError(
                f"the demo model '{model.alias}' is converted once and cannot be written to '{target.parent}' "
                f"({reason}); set INTRUDERS_CACHE to a folder with room"
            ) from error
    return target


def _write_dequantized(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from .quiet import quiet_transformers

    # The bar of the de-quantization is not transformers' own and heeds no setting.
    with quiet_transformers(), redirect_stderr(io.StringIO()):
        loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        config = loaded.config
        # With transformers 5, a model that came from GGUF calls itself quantized for good; a fresh one with its
        # weights does not.
        config.__dict__.pop("quantization_config", None)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        model.load_state_dict(loaded.state_dict())
        model.generation_config = loaded.generation_config
        model.save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        tokenizer.model_max_length = config.max_position_embeddings
        tokenizer.save_pretrained(folder)


def digest_of_model(source: str) -> str:
    """128 bits of what is read of a model, or of a demo model's copy: an adapter's own tokenizer too."""
    # Reading weights needs torch, which finding a model does not.
    from ..checkpoints.opening.many_sources import digest_of
    from ..checkpoints.writing.companions import own_tokenizer_files

    if source in DEMO_MODELS:
        base_model_location(source)
    of_weights = digest_of(source)
    files = own_tokenizer_files(source)
    if not files:
        return of_weights
    digest = xxhash.xxh3_128(of_weights.encode())
    add_files(digest, files)
    return digest.hexdigest()


# What a model computes depends on these; what else is in its folder, such as an audit, may come and go.
_ENDINGS = (".safetensors", ".bin", ".gguf", ".index.json")
_NAMES = (
    "config.json", "adapter_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
    "vocab.json", "merges.txt",
)  # fmt: skip
# What else tokenizers are made of. These have a digest of their own.
_TOKENIZER_ENDINGS = (".model", ".spm", ".tiktoken")
_TOKENIZER_NAMES = ("vocab.txt", "special_tokens_map.json", "added_tokens.json", "chat_template.json")


def contents_of(models: Mapping[str, str]) -> dict[str, str]:
    """Return the digests of models by their names, and by ``tokenizer of NAME`` of what else makes their tokenizers."""
    digests = {name: content_of_model(source) for name, source in models.items()}
    for name, source in models.items():
        folder = user_path(source)
        inside = list(folder.iterdir()) if folder.is_dir() else []
        files = [f for f in inside if f.name in _TOKENIZER_NAMES or f.name.endswith(_TOKENIZER_ENDINGS)]
        digests[f"tokenizer of {name}"] = _digest(files) if files else None
    return {name: digest for name, digest in digests.items() if digest is not None}


def content_of_model(source: str) -> str | None:
    """Return a digest of weights, configs and tokenizer in a folder; of a hub id its commit in the cache, or None.

    Unlike :func:`digest_of_model` it is for what a training depends on, and downloads nothing.
    """
    folder = user_path(source)
    if not folder.is_dir():
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

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
