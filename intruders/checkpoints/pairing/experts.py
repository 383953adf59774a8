"""Experts that one side stores one by one and the other stacked, brought to the stacked form.

Since version 5 transformers holds the experts of Mixtral, Qwen MoE and others as ``experts.gate_up_proj``
(e, 2 i, h) and ``experts.down_proj`` (e, h, i) in memory, and writes them to disk one by one, as their
authors published them. Experts without a gate (Nemotron-H) are ``experts.up_proj`` (e, i, h) and ``experts.down_proj``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..stored.checkpoint import Checkpoint, StoredTensor

_SEPARATE = re.compile(
    r"(?P<parent>.+)\.experts\.(?P<number>\d{1,6})\.(?P<part>w1|w2|w3|gate_proj|up_proj|down_proj)\.weight"
)
_STACKED = re.compile(r"(?:^|\.)experts\.(?:gate_up_proj|up_proj|down_proj)$")
# Mixtral's names for the parts, and for the block that transformers calls mlp in memory.
_ROLES = {"w1": "gate", "gate_proj": "gate", "w3": "up", "up_proj": "up", "w2": "down", "down_proj": "down"}
_BLOCK = ".block_sparse_moe"

_Roles = dict[str, dict[int, StoredTensor]]  # "up" and "down" of each expert, and mostly "gate"


@dataclass(frozen=True)
class InStacks:
    """The position of a tensor among those that experts were stacked in."""

    tensor: str
    expert: int | None = None  # None where the complete tensor is the same, under another name perhaps
    rows: slice = field(default_factory=lambda: slice(None))  # of the expert's matrix

    def cut(self, stacked: StoredTensor) -> StoredTensor:
        """The part of ``tensor`` that is at this position."""
        expert = self.expert
        if expert is None:
            return stacked
        _, rows, columns = stacked.shape
        shape = (len(range(*self.rows.indices(rows))), columns)
        return replace(
            stacked, shape=shape, read=lambda: stacked.read_slice(expert)[self.rows], read_one=None
        )


def with_experts_as(names: Iterable[str], checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with stacked experts, where these names of the other side have stacks and its own do not."""
    if not _any_stacked(names) or _any_stacked(checkpoint.names()):
        return checkpoint
    return with_stacked_experts(checkpoint)


def with_stacked_experts(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with each block's experts as two stacks; the same one, if it has no complete set of experts."""
    complete = _complete_blocks(checkpoint)
    if not complete:
        return checkpoint
    tensors: dict[str, StoredTensor] = {}
    for name, stored in checkpoint.tensors.items():
        match = _SEPARATE.fullmatch(name)
        if match is None or match["parent"] not in complete:
            tensors[name.replace(_BLOCK, ".mlp")] = stored
            continue
        roles, stem = complete[match["parent"]], match["parent"].replace(_BLOCK, ".mlp")
        if "gate" in roles:
            tensors.setdefault(f"{stem}.experts.gate_up_proj", _stack([roles["gate"], roles["up"]]))
        else:
            tensors.setdefault(f"{stem}.experts.up_proj", _stack([roles["up"]]))
        tensors.setdefault(f"{stem}.experts.down_proj", _stack([roles["down"]]))
    return replace(checkpoint, tensors=tensors)


def positions_in_stacks(checkpoint: Checkpoint) -> dict[str, InStacks]:
    """Each tensor of a checkpoint -> its position in :func:`with_stacked_experts` of it."""
    complete = _complete_blocks(checkpoint)
    positions = {}
    for name in checkpoint.tensors:
        match = _SEPARATE.fullmatch(name)
        if match is None or match["parent"] not in complete:
            positions[name] = InStacks(name.replace(_BLOCK, ".mlp") if complete else name)
            continue
        role, experts = _ROLES[match["part"]], f"{match['parent'].replace(_BLOCK, '.mlp')}.experts"
        gates = complete[match["parent"]].get("gate")
        tensor, rows = f"{role}_proj", slice(None)
        if gates is not None and role != "down":
            first_of_up = gates[0].shape[0]
            tensor, rows = (
                "gate_up_proj",
                slice(first_of_up) if role == "gate" else slice(first_of_up, None),
            )
        positions[name] = InStacks(f"{experts}.{tensor}", int(match["number"]), rows)
    return positions


def _complete_blocks(checkpoint: Checkpoint) -> dict[str, _Roles]:
    """The experts of each block that has all of them, by the block's name."""
    blocks: dict[str, _Roles] = {}
    for name, stored in checkpoint.tensors.items():
        if match := _SEPARATE.fullmatch(name):
            roles = blocks.setdefault(match["parent"], {})
            roles.setdefault(_ROLES[match["part"]], {})[int(match["number"])] = stored
    return {parent: roles for parent, roles in blocks.items() if _is_complete(roles)}


def _is_complete(roles: _Roles) -> bool:
    if set(roles) not in ({"gate", "up", "down"}, {"up", "down"}):
        return False
    count = len(roles["up"])
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


def _any_stacked(names: Iterable[str]) -> bool:
    return any(_STACKED.search(name) for name in names)
