"""What a tied tensor is: the embedding of tokens that is the output head too, one tensor under two names."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from .checkpoint import Checkpoint, Tensors
from .names import scores_tokens

_INPUT_EMBEDDING = re.compile(
    r"(?:model\.(?:decoder\.)?embed_tokens|(?:transformer\.)?wte|transformer\.word_embeddings|gpt_neox\.embed_in"
    r"|(?:model\.)?shared|(?:.+\.)?language_model\.(?:.+\.)?embed_tokens)\.weight"
)

# Output heads of language models. GPT-NeoX's file has ``embed_out``, Whisper's model in memory ``proj_out``.
HEADS = ("lm_head.weight", "embed_out.weight", "proj_out.weight")

# Classes of models whose output head may be their embedding.
_WITH_HEAD = ("LM", "LMHeadModel", "ForConditionalGeneration")

_KEY = "tie_word_embeddings"


@dataclass(frozen=True)
class Tied:
    """The two names of one tensor."""

    embedding: str
    head: str


def tied_uses(model: Checkpoint) -> Tied | None:
    """The embedding and the head of a model in which they are one tensor; None where each has its own.

    A head that the file lacks is the embedding unless the config unties them.
    """
    known = [Tied(other, head) for head, other in model.tied.items() if _is_head(head)]
    uses = known[0] if known else separated_uses(model)
    if uses is not None:
        return uses
    has_head = any(name in HEADS or name.endswith(f".{HEADS[0]}") for name in model.tensors)
    embedding = None if has_head or ties(model.config) is False else _embedding(model.tensors)
    return None if embedding is None else Tied(embedding, HEADS[0])


def ties(config: Mapping[str, Any] | None) -> bool | None:
    """Whether a config, or its text's config, says that embedding and head are one; None if its class decides."""
    values = config or {}
    text = values.get("text_config")
    said = [part.get(_KEY) for part in (values, text) if isinstance(part, Mapping)]
    return True if True in said else False if False in said else None


def classes_of(config: Mapping[str, Any] | None) -> list[str]:
    named = (config or {}).get("architectures")
    return [name for name in named if isinstance(name, str)] if isinstance(named, list) else []


def has_head(config: Mapping[str, Any] | None) -> bool:
    """Whether a config is of a class of models with an output head over tokens."""
    return any(name.endswith(_WITH_HEAD) for name in classes_of(config))


def stored_twice(tensors: Tensors, config: Mapping[str, Any] | None) -> dict[str, str]:
    """The head that a file stores beside the equal embedding, to that; transformers loads one that differs as it is."""
    head = next((name for name in HEADS if name in tensors), None)
    embedding = None if head is None or config is None or ties(config) is False else _embedding(tensors)
    if head is None or embedding is None or tensors[head].shape != tensors[embedding].shape:
        return {}
    return {head: embedding} if torch.equal(tensors[head].read(), tensors[embedding].read()) else {}


def separated(model: Checkpoint, uses: Tied) -> Checkpoint:
    """The same model with a tensor for each use. They are equal, and one can be changed without the other."""
    if uses.head in model.tensors or uses.embedding not in model.tensors:
        return model
    tied = {name: other for name, other in model.tied.items() if name != uses.head}
    return replace(model, tensors={**model.tensors, uses.head: model.tensors[uses.embedding]}, tied=tied)


def separated_uses(model: Checkpoint) -> Tied | None:
    """The two uses of one tensor that a model has apart, so that its config has to untie them; None without such."""
    heads = {id(model.tensors[name]): name for name in model.tensors if _is_head(name)}
    for name, stored in model.tensors.items():
        if heads.get(id(stored), name) != name:
            return Tied(name, heads[id(stored)])
    return None


def untie(config: dict[str, Any]) -> None:
    config[_KEY] = False
    for part in config.values():
        if isinstance(part, dict) and _KEY in part:
            part[_KEY] = False


def _is_head(name: str) -> bool:
    return name in HEADS or scores_tokens(name)


def _embedding(names: Collection[str]) -> str | None:
    named = [name for name in names if _INPUT_EMBEDDING.fullmatch(name)]
    # Some files have the embedding that encoder and decoder share under their names too.
    present = [name for name in named if name.endswith("shared.weight")] or named
    return present[0] if len(present) == 1 else None
