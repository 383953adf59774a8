"""Models and tokenizers through transformers' auto classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..data.task import Kind
from ..errors import CheckpointError, first_line
from .loading_settings import AS_STORED, Loading
from .stored_dtype import dtype_to_load


def load_model(
    location: str, kind: Kind, labels: Sequence[str] | None = None, loading: Loading = AS_STORED
) -> nn.Module:
    """Load a causal model, or a sequence classifier with one output per label (a new head starts at random).

    Raises CheckpointError when transformers cannot load ``location`` as that.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    dtype = dtype_to_load(location, loading)
    try:
        if kind == "causal":
            model: Any = AutoModelForCausalLM.from_pretrained(location, dtype=dtype)
        else:
            names = list(labels or [])
            model, info = AutoModelForSequenceClassification.from_pretrained(
                location,
                dtype=dtype,
                num_labels=len(names),
                id2label=dict(enumerate(names)),
                label2id={name: index for index, name in enumerate(names)},
                output_loading_info=True,
            )
            model.untrained = tuple(sorted(info["missing_keys"]))
            fresh = sorted({name.rpartition(".")[0] for name in info["missing_keys"]})
            model.newly_initialized = tuple(name for name in fresh if not _is_head(name))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{location!r} cannot be loaded as a {kind} model by transformers: {first_line(error)}"
        ) from error
    return placed(model)


def load_masked_model(location: str, loading: Loading = AS_STORED) -> nn.Module:
    """Load a masked language model.

    Raises CheckpointError when transformers cannot load ``location`` as that, or it has no trained head.
    """
    from transformers import AutoModelForMaskedLM

    try:
        model, info = AutoModelForMaskedLM.from_pretrained(
            location, dtype=dtype_to_load(location, loading), output_loading_info=True
        )
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{location!r} cannot be loaded as a masked language model: {first_line(error)}"
        ) from error
    if info["missing_keys"]:
        raise CheckpointError(
            f"{location!r} has no masked-language-model head ({sorted(info['missing_keys'])[0]} is missing), "
            "so its loss on text is not defined; pass with --base a model that has one"
        )
    return placed(model)


def placed(model: Any) -> nn.Module:
    """Move a model to the device that computes."""
    moved: nn.Module = model.to("cuda" if torch.cuda.is_available() else "cpu")
    return moved


def heads(model: nn.Module) -> dict[str, nn.Module]:
    """Return names of modules that start at random, so that every method trains them fully and saves them.

    They are the classification head and other modules that a base lacks, such as the pooler of BERT's classifier,
    which its masked language model does not have.
    """
    names = ("classifier", "score", *getattr(model, "newly_initialized", ()))
    modules = dict(model.named_modules())
    return {name: modules[name] for name in names if name in modules}


def _is_head(name: str) -> bool:
    return name.partition(".")[0] in ("classifier", "score")


def load_tokenizer(location: str) -> Any:
    """Load the tokenizer of ``location``. CheckpointError if it has none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(location)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{location!r} has no tokenizer that transformers can load: {first_line(error)}"
        ) from error
