"""The digest of a model that a command runs, by which a later call knows what was measured."""

from __future__ import annotations

import xxhash

from ..checkpoints.opening.many_sources import digest_of
from ..checkpoints.stored.demo_models import DEMO_MODELS
from ..checkpoints.writing.own_tokenizer import own_tokenizer_files
from ..system.digests import add_files
from .base_model import base_model_location


def digest_of_model(source: str) -> str:
    """128 bits of what is read of a model: of an adapter its config, its tensors and a tokenizer of its own.

    A demo model in a GGUF file is de-quantized first. Its name means the copy from then on, so the digest would
    otherwise be another one before the first use on a machine than after it.

    Raises:
      CheckpointError: it cannot be found or read.
      MissingDependencyError: it is a demo model whose package is not installed.
    """
    if source in DEMO_MODELS:
        base_model_location(source)
    of_weights = digest_of(source)
    files = own_tokenizer_files(source)
    if not files:
        return of_weights
    digest = xxhash.xxh3_128(of_weights.encode())
    add_files(digest, files)
    return digest.hexdigest()
