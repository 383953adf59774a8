"""Experts that one side stores one by one and the other stacked, brought to the stacked form.

Since version 5 transformers holds the experts of Mixtral, Qwen MoE and others as ``experts.gate_up_proj``
(e, 2 i, h) and ``experts.down_proj`` (e, h, i) in memory, and writes them to disk one by one, as their
authors published them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from ..adapters.adapter import Adapter
from ..stored.checkpoint import Checkpoint, StoredTensor

_SEPARATE = re.compile(
    r"(?P<parent>.+)\.experts\.(?P<number>\d{1,6})\.(?P<part>w1|w2|w3|gate_proj|up_proj|down_proj)\.weight"
)
_STACKED = re.compile(r"(?:^|\.)experts\.(?:gate_up_proj|down_proj)$")
# Mixtral's names for the parts, and for the block that transformers calls mlp in memory.
_ROLES = {"w1": "gate", "gate_proj": "gate", "w3": "up", "up_proj": "up", "w2": "down", "down_proj": "down"}
_BLOCK = ".block_sparse_moe"


def aligned_experts(
    base: Checkpoint, tuned: Checkpoint | Adapter
) -> tuple[Checkpoint, Checkpoint | Adapter, list[str]]:
    """Both sides with stacked experts, where one had them stacked and the other one by one; and a note of it."""
    theirs = _names_in(tuned)
    if _any_stacked(theirs) and not _any_stacked(base.names()):
        stacked = with_stacked_experts(base)
        if stacked is not base:
            return stacked, tuned, ["experts that base stores one by one, as the stacks that tuned has"]
    if isinstance(tuned, Checkpoint) and _any_stacked(base.names()) and not _any_stacked(theirs):
        stacked = with_stacked_experts(tuned)
        if stacked is not tuned:
            return base, stacked, ["experts that tuned stores one by one, as the stacks that base has"]
    return base, tuned, []


def with_stacked_experts(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with each block's experts as two stacks; the same one, if it has no complete set of experts."""
    blocks: dict[str, dict[str, dict[int, StoredTensor]]] = {}
    for name, stored in checkpoint.tensors.items():
        if match := _SEPARATE.fullmatch(name):
            roles = blocks.setdefault(match["parent"], {})
            roles.setdefault(_ROLES[match["part"]], {})[int(match["number"])] = stored
    complete = {parent: roles for parent, roles in blocks.items() if _is_complete(roles)}
    if not complete:
        return checkpoint
    tensors: dict[str, StoredTensor] = {}
    for name, stored in checkpoint.tensors.items():
        match = _SEPARATE.fullmatch(name)
        if match is None or match["parent"] not in complete:
            tensors[name.replace(_BLOCK, ".mlp")] = stored
            continue
        roles, stem = complete[match["parent"]], match["parent"].replace(_BLOCK, ".mlp")
        tensors.setdefault(f"{stem}.experts.gate_up_proj", _stack([roles["gate"], roles["up"]]))
        tensors.setdefault(f"{stem}.experts.down_proj", _stack([roles["down"]]))
    return replace(checkpoint, tensors=tensors)


def _is_complete(roles: dict[str, dict[int, StoredTensor]]) -> bool:
    if set(roles) != {"gate", "up", "down"}:
        return False
    count = len(roles["gate"])
    return all(
        sorted(experts) == list(range(count)) and len({stored.shape for stored in experts.values()}) == 1
        for experts in roles.values()
    ) and all(len(experts[0].shape) == 2 for experts in roles.values())


def _stack(parts: list[dict[int, StoredTensor]]) -> StoredTensor:
    """(e, sum of rows, n): the parts of each expert one above the other."""
    count, first = len(parts[0]), parts[0][0]

    def read_one(index: int) -> Tensor:
        return torch.cat([part[index].read() for part in parts])

    def read() -> Tensor:
        return torch.stack([read_one(index) for index in range(count)])

    shape = (count, sum(part[0].shape[0] for part in parts), first.shape[1])
    return StoredTensor(shape, first.dtype, first.stored_as, read, read_one)


def _names_in(tuned: Checkpoint | Adapter) -> list[str]:
    if isinstance(tuned, Checkpoint):
        return tuned.names()
    return [update.name for update in tuned.updates]


def _any_stacked(names: Iterable[str]) -> bool:
    return any(_STACKED.search(name) for name in names)
