"""The base under the names that all parts of the tuned side have for its tensors: the first stage of pairing.

Experts that one side stores one by one and the other stacked are brought to the stacked form. Since version 5
transformers holds the experts of Mixtral, Qwen MoE and others as ``experts.gate_up_proj`` (e, 2 i, h) and
``experts.down_proj`` (e, h, i) in memory, and writes them to disk one by one, as their authors published them. Experts
without a gate (Nemotron-H) are ``experts.up_proj`` (e, i, h) and ``experts.down_proj``.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ...linalg.low_rank import LowRank
from ..adapters.adapter import AdaptedWeight, Adapter
from ..opening.model_sum import Part, parts_of
from ..opening.open import Opened
from ..stored.checkpoint import Checkpoint, StoredTensor
from ..stored.names import may_be_same, scores_classes
from ..stored.tied import HEADS, Tied, has_head, separated, separated_uses, tied_uses

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

        def read() -> Tensor:
            return stacked.read_slice(expert)[self.rows]

        return replace(stacked, shape=shape, read=read, read_one=None)


def with_experts_as(names: Iterable[str], checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with each block's experts as two stacks, where these names of the other side have stacks.

    The same one, if it has stacks itself, or no complete set of experts.
    """
    if not _any_stacked(names) or _any_stacked(checkpoint.names()):
        return checkpoint
    complete = _complete_blocks(checkpoint)
    return replace(checkpoint, tensors=_stacked(checkpoint, complete)[0]) if complete else checkpoint


def positions_in_stacks(checkpoint: Checkpoint, paired: Checkpoint) -> dict[str, InStacks]:
    """Each tensor of a checkpoint -> its position in what it was paired as: itself, or with stacked experts."""
    if paired.tensors is checkpoint.tensors:
        return {name: InStacks(name) for name in checkpoint.tensors}
    return _stacked(checkpoint, _complete_blocks(checkpoint))[1]


def _stacked(
    checkpoint: Checkpoint, complete: Mapping[str, _Roles]
) -> tuple[dict[str, StoredTensor], dict[str, InStacks]]:
    """The tensors with the experts of each complete block as two stacks, and where in these each tensor is."""
    tensors: dict[str, StoredTensor] = {}
    positions: dict[str, InStacks] = {}
    for name, stored in checkpoint.tensors.items():
        match = _SEPARATE.fullmatch(name)
        if match is None or match["parent"] not in complete:
            position = InStacks(name.replace(_BLOCK, ".mlp") if complete else name)
            positions[name], tensors[position.tensor] = position, stored
            continue
        roles, experts = complete[match["parent"]], f"{match['parent'].replace(_BLOCK, '.mlp')}.experts"
        above = [roles[role] for role in ("gate", "up") if role in roles]
        joined = "gate_up_proj" if "gate" in roles else "up_proj"
        tensors.setdefault(f"{experts}.{joined}", _stack(above))
        tensors.setdefault(f"{experts}.down_proj", _stack([roles["down"]]))
        role, rows = _ROLES[match["part"]], slice(None)
        if role != "down" and len(above) == 2:
            first_of_up = above[0][0].shape[0]
            rows = slice(first_of_up) if role == "gate" else slice(first_of_up, None)
        tensor = "down_proj" if role == "down" else joined
        positions[name] = InStacks(f"{experts}.{tensor}", int(match["number"]), rows)
    return tensors, positions


def _complete_blocks(checkpoint: Checkpoint) -> dict[str, _Roles]:
    blocks: dict[str, _Roles] = {}
    for name, stored in checkpoint.tensors.items():
        if match := _SEPARATE.fullmatch(name):
            roles = blocks.setdefault(match["parent"], {})
            roles.setdefault(_ROLES[match["part"]], {})[int(match["number"])] = stored
    complete = {}
    for parent, roles in blocks.items():
        numbers = list(range(len(roles.get("up", {}))))
        shapes = [{stored.shape for stored in experts.values()} for experts in roles.values()]
        has_roles = set(roles) in ({"gate", "up", "down"}, {"up", "down"})
        has_all = all(sorted(experts) == numbers for experts in roles.values())
        are_matrices = all(len(of_role) == 1 and len(next(iter(of_role))) == 2 for of_role in shapes)
        if has_roles and has_all and are_matrices:
            complete[parent] = roles
    return complete


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


_Change = AdaptedWeight | StoredTensor


def with_tied_head(base: Checkpoint, tuned: Opened) -> Checkpoint:
    """The base as adapters change it: with a head of its own where they change one use of a tied tensor alone.

    While training, PEFT adds an update to the module that it is for, and a module that is stored in full
    (``modules_to_save``) takes the place of one use. Only where both are changed alike, as ``ensure_weight_tying``
    has it, do they stay one tensor, under the name of the embedding.
    """
    uses = tied_uses(base) if separated_uses(base) is None else None
    adapters = [part for part, _ in parts_of(tuned) if isinstance(part, Adapter)]
    if uses is None or not adapters:
        return base
    changes: list[dict[str, _Change]] = [
        {update.name: update for update in adapter.updates} | dict(adapter.replaced.tensors)
        for adapter in adapters
    ]
    head = next((name for name in (uses.head, *HEADS) if any(name in change for change in changes)), None)
    uses = uses if head is None else Tied(uses.embedding, head)
    touched = []
    for change, adapter in zip(changes, adapters, strict=True):
        of_embedding = next((change[name] for name in change if may_be_same(uses.embedding, name)), None)
        of_head = change.get(uses.head)
        if of_embedding is not None or of_head is not None:
            touched.append((of_embedding, of_head, adapter))
    if not touched:
        return base
    stored = [name for adapter in adapters for name in adapter.replaced.names()]
    # A classifier's adapter brings another head, so that the base's has no part in what is computed.
    if head is None and (not has_head(base.config) or any(scores_classes(name) for name in stored)):
        return base
    if all(_are_alike(base, uses, *entry) for entry in touched):
        return replace(base, tied={**base.tied, uses.head: uses.embedding})
    return separated(base, uses)


def _are_alike(
    base: Checkpoint, uses: Tied, embedding: _Change | None, head: _Change | None, adapter: Adapter
) -> bool:
    if isinstance(embedding, StoredTensor) and isinstance(head, StoredTensor):
        return embedding.shape == head.shape and torch.equal(embedding.read(), head.read())
    if not isinstance(embedding, AdaptedWeight) or not isinstance(head, AdaptedWeight):
        return False
    if adapter.named_for is not None or (embedding.rank, embedding.scale) != (head.rank, head.scale):
        return False
    before = base.read(uses.embedding)
    first, second = embedding.change(before, None), head.change(before, None)
    scale = embedding.scale or 1.0
    if not isinstance(first, LowRank) or not isinstance(second, LowRank):
        return False
    # PEFT has the scale on B, which is the right factor of an embedding and the left one of a head.
    return torch.equal(scale * first.left, second.left) and torch.equal(first.right, scale * second.right)


def under_common_names(base: Checkpoint, parts: Sequence[Part]) -> tuple[Checkpoint, list[Part], list[str]]:
    """The base and the parts with the same names for the same tensors, and notes of what was renamed.

    Stacked experts of one part decide all names; where one has the head apart from its embedding, all have.
    """
    for part in parts:
        base = with_tied_head(base, part)
    stacked = base
    for part in parts:
        updated = [update.name for update in part.updates] if isinstance(part, Adapter) else []
        stored = part.replaced if isinstance(part, Adapter) else part
        stacked = with_experts_as([*updated, *stored.names()], stacked)
    notes = []
    if stacked is not base:
        notes.append("experts that base stores one by one, as the stacks that tuned has")
    aligned: list[Part] = []
    are_stacked = False
    for part in parts:
        if isinstance(part, Checkpoint):
            uses = None if separated_uses(base) is None else tied_uses(part)
            part = part if uses is None else separated(part, uses)
            in_stacks = with_experts_as(stacked.names(), part)
            are_stacked = are_stacked or in_stacks is not part
            part = in_stacks
        aligned.append(part)
    if are_stacked:
        notes.append("experts that tuned stores one by one, as the stacks that base has")
    return stacked, aligned, notes
