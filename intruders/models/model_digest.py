"""The digest of a model that a command runs, by which a later call knows what was measured."""

from __future__ import annotations

from ..checkpoints.opening.many_sources import digest_of
from ..checkpoints.stored.demo_models import DEMO_MODELS
from .base_model import base_model_location


def digest_of_model(source: str) -> str:
    """128 bits of what is read of a model: of an adapter its config and tensors.

    A demo model in a GGUF file is de-quantized first. Its name means the copy from then on, so the digest would
    otherwise be another one before the first use on a machine than after it.

    Raises:
      CheckpointError: it cannot be found or read.
      MissingDependencyError: it is a demo model whose package is not installed.
    """
    if source in DEMO_MODELS:
        base_model_location(source)
    return digest_of(source)
