"""What a merged model has otherwise than its base, apart from the matrices that the adapter changes."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from ..adapters.adapter import Adapter
from ..opening.model_sum import ModelSum
from ..pairing.side import Side
from ..stored.checkpoint import Checkpoint, StoredTensor, Tensors
from ..stored.matrices import is_class_token, not_a_matrix
from ..stored.names import may_be_same, plain
from ..stored.tied import classes_of, stored_twice
from .merged_matrix import stored_type

# Tensors of an adapter that change one of the base which is no matrix, or a few rows of it.
_ADDED = re.compile(r"(?P<module>.+?)(?:\.token_adapter)?\.(?P<part>lora_B\.bias|trainable_tokens\w*)")

# Modules of a checkpoint that a model with another head is made without.
_OLD_HEAD = re.compile(r"(?:^|\.)(?:lm_head|cls|classifier|score|qa_outputs)\.")
_POOLER = r"(?:^|\.)pooler\."
_OLD_HEAD_AND_POOLER = re.compile(rf"{_OLD_HEAD.pattern}|{_POOLER}")
# What a model of these classes has none of: its head works on every token, and BERT's on the next sentence is gone.
_NOT_IN_CLASS = {
    "ForTokenClassification": re.compile(_POOLER),
    "ForQuestionAnswering": re.compile(_POOLER),
    "ForMaskedLM": re.compile(rf"{_POOLER}|(?:^|\.)cls\.seq_relationship\."),
}


@dataclass(frozen=True)
class OtherTensor:
    """A tensor that the adapter leaves alone, and how the merged model has it otherwise."""

    name: str
    reason: str


def tensors_not_compared(base: Checkpoint, sides: Sequence[Side], is_sum: bool) -> list[OtherTensor]:
    """Tensors of the base that the adapter changes in a way that is not followed here, by the base's names."""
    unchecked = []
    for side in sides:
        part = side.part
        if not isinstance(part, Adapter):
            continue
        for name, reason in part.ignored:
            if match := _ADDED.fullmatch(name):
                end = "bias" if match["part"] == "lora_B.bias" else "weight"
                own = f"{match['module']}.{end}"  # to which an adapter may give another prefix than the base
                changed = next((name for name in base.names() if may_be_same(name, own)), own)
                unchecked.append(OtherTensor(changed, f"the adapter changes it: {reason}"))
        unchecked += [OtherTensor(bias, "the adapter changes it: a bias") for bias in side.biases]
        if is_sum:
            lacking = [skipped.name for skipped in side.skipped if skipped.name in part.replaced.tensors]
            unchecked += [
                OtherTensor(name, "saved in full by a part of the sum") for name in (*side.tensors, *lacking)
            ]
    return unchecked


def differences(
    base: Checkpoint,
    saved: Tensors,
    added: Tensors,
    merged: Checkpoint,
    names: Collection[str],
    merged_name: Mapping[str, str],
) -> Iterator[tuple[OtherTensor | None, OtherTensor | None]]:
    """Return for each of the base's tensors in ``names``, and each added one (what differs, what is not comparable).

    ``saved`` are those that the adapter stores in full, by the base's names, ``added`` those of a head that it brings,
    beside which the base's own is not needed.
    """
    classes = classes_of(merged.config)
    architecture = classes[0] if len(classes) == 1 else ""
    # The head of RoBERTa has a dense layer of its own; BERT's works on what the pooler makes.
    old_head = _OLD_HEAD_AND_POOLER if any(".dense." in new for new in added) else _OLD_HEAD
    without = [parts for ending, parts in _NOT_IN_CLASS.items() if architecture.endswith(ending)]
    own_name = {plain(name): name for name in merged.names()}
    counterparts = {name: merged_name.get(name) for name in names}
    counterparts |= {name: own_name.get(plain(name)) for name in added}
    of_adapter = {**saved, **added}
    for name, other in counterparts.items():
        if other is not None:
            expected, stored = of_adapter.get(name) or base.tensors[name], merged.tensors[other]
            is_quantized = expected.dtype.is_floating_point and stored_type(stored.stored_as) is None
            if is_quantized and expected.shape == stored.shape:
                yield None, OtherTensor(name, f"quantized as {stored.stored_as}")
            else:
                yield _difference(name, expected, stored, name in of_adapter), None
        elif name in added:
            yield OtherTensor(name, "missing in the merged model"), None
        elif added and old_head.search(name):
            yield None, OtherTensor(name, "the adapter brings another head")
        elif any(parts.search(name) for parts in without):
            yield None, OtherTensor(name, f"the class {architecture} of the merged model has none")
        elif _is_parameter(name, base.tensors[name]):
            yield OtherTensor(name, "missing in the merged model"), None
        else:
            yield None, None


def _difference(
    name: str, expected: StoredTensor, stored: StoredTensor, is_saved: bool
) -> OtherTensor | None:
    """Return in what a tensor of the merged model is another; None if it is the expected one, or a rounding of it."""
    if expected.shape != stored.shape:
        return OtherTensor(name, f"other shape: {expected.shape} and {stored.shape}")
    before, after = expected.read(), stored.read()
    types, numbers = [before.dtype], after
    if before.dtype.is_floating_point and after.dtype.is_floating_point:
        types += [torch.bfloat16, torch.float16]  # on the way
    else:
        numbers = after.to(before.dtype)
    if any(torch.equal(before.to(dtype).to(numbers.dtype), numbers) for dtype in types):
        return None
    return OtherTensor(name, "other numbers" + (" than the adapter saved" if is_saved else ""))


def tensors_only_in(
    merged: Checkpoint, base: Checkpoint, adapter: Adapter | ModelSum, merged_name: Mapping[str, str]
) -> list[OtherTensor]:
    """Weights and biases that neither the base nor the adapter has; buffers are left out."""
    saved = adapter.replaced.names() if isinstance(adapter, Adapter) else ()
    # A head that the base's config ties, written beside the embedding that it equals.
    tied = stored_twice(merged.tensors, base.config)
    own_name = {plain(name): name for name in merged.names()}
    known = {*merged_name.values(), *base.tied, *(own_name.get(plain(name)) for name in saved), *tied}
    return [
        OtherTensor(name, "missing in the base")
        for name in merged.names()
        if name not in known and name.endswith((".weight", ".bias"))
    ]


def _is_parameter(name: str, stored: StoredTensor) -> bool:
    """Return whether a tensor is a weight or bias, and no buffer, as the causal mask ``attn.bias`` of old GPT-2."""
    if not stored.dtype.is_floating_point or (name.endswith(".bias") and len(stored.shape) > 2):
        return False
    return is_class_token(stored.shape) or not_a_matrix(stored) is None or name.endswith((".weight", ".bias"))
