"""A new LoRA adapter for a tuned model that has none to write back: full fine-tunings, DoRA, sums, other formats.

Updates that come as factors are kept exactly, or cut to a rank; of dense ones the best approximation of a rank is
taken, and how much of each update it leaves out is stated.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...checkpoints.adapters.adapter import Adapter, fields_of_base, usual_and_pattern
from ...checkpoints.adapters.peft_types import shapes_of_class
from ...checkpoints.opening.model_sum import parts_of
from ...checkpoints.opening.open import Opened
from ...checkpoints.pairing.names_of_base import under_common_names
from ...checkpoints.pairing.pair_sides import pair_sides
from ...checkpoints.pairing.pairing import PairedMatrix
from ...checkpoints.pairing.side import sides_of
from ...checkpoints.stored.checkpoint import Checkpoint
from ...checkpoints.stored.names import looks_up_tokens, match_names, may_be_same, tensor_of
from ...checkpoints.stored.selection import Selection
from ...checkpoints.stored.tied import classes_of
from ...checkpoints.writing.lora_adapter import Rank
from ...checkpoints.writing.shards import require_finite
from ...engine.components import leading_components
from ...errors import CheckpointError, SettingError, some_of
from ...linalg.low_rank import LowRank
from ...linalg.operators import Dense
from ...linalg.pair import Pair
from ...system.progress import Progress
from ..remedies.changes import Change
from .target import Changes, Cut, write_adapter


@dataclass(frozen=True)
class NewLoraContent:
    """A LoRA adapter made for the purpose."""

    base: Checkpoint
    pairs: list[PairedMatrix]
    modules: dict[str, str]  # the base's weight -> its module in the model that PEFT puts the adapter on
    rank: int | None
    task_type: str | None  # as PEFT names it

    @classmethod
    def of(cls, base: Checkpoint, tuned: Opened, rank: Rank) -> "NewLoraContent":
        """Build the target; raise SettingError if it needs a rank, CheckpointError for other than linear modules."""
        # Of adapters everything is written or refused. Of a fine-tuning of all weights, the matrices that are audited.
        of_adapters = not isinstance(tuned, Checkpoint)
        pairing = pair_sides(base, tuned, Selection(include_embeddings=of_adapters))
        pairs = pairing.pairs
        is_dense = any(matrix.rank is None and matrix.load() is not None for matrix in pairs)
        if rank == "keep" or (rank is None and is_dense):
            asked = "an adapter is to be written" if rank is None else f"rank is {rank!r}"
            raise SettingError(
                f"{asked}, and the updates of '{tuned.source}' are of no low rank; write a checkpoint (--as "
                "checkpoint), or a LoRA adapter of stated error (intruders mitigate --as adapter --rank N)"
            )

        def is_linear(name: str) -> bool:
            return name.endswith(".weight") and len(base.shape(name)) == 2 and not looks_up_tokens(name)

        unfit = next((m.name for m in pairs if not is_linear(m.name) and m.load() is not None), None)
        if unfit is None and of_adapters:
            unfit = next(chain(pairing.biases, _outside(tuned, pairs)), None)
        if unfit is not None:
            raise CheckpointError(
                f"'{tuned.source}' changes '{unfit}', which is not the weight of a linear module; write a "
                "checkpoint (--as checkpoint)"
            )
        assert not isinstance(rank, str)
        names = names_for_peft(base, tuned, [matrix.name for matrix in pairs])
        unnamed = next((m.name for m in pairs if m.name not in names and m.load() is not None), None)
        if unnamed is not None:
            raise CheckpointError(
                f"'{tuned.source}' changes '{unnamed}', and the class that its config names has no weight that is "
                "known to be the same, so PEFT would not find it; write a checkpoint (--as checkpoint)"
            )
        # PEFT's automatic classes refuse an adapter of a causal model without it; a classifier's head is in none.
        classes = classes_of(tuned.config) if isinstance(tuned, Checkpoint) else []
        is_causal = any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in classes)
        modules = {name: own.removesuffix(".weight") for name, own in names.items()}
        return cls(base, pairs, modules, rank, "CAUSAL_LM" if is_causal else None)

    def write(self, folder: Path, changes: Changes, progress: Progress, metadata: Mapping[str, str]) -> Cut:
        tensors: dict[str, Tensor] = {}
        cut = Cut()
        for done, matrix in enumerate(self.pairs, start=1):
            loaded = matrix.load()
            if loaded is not None:
                change = changes.matrices.get(matrix.name) or Change(share=changes.elsewhere(matrix.name))
                factors, error = _cut(loaded, change, self.rank)
                module = f"base_model.model.{self.modules[matrix.name]}"
                # An update may be smaller than a base of 16 bits resolves; PEFT computes with factors of 32.
                for factor, numbers in (("lora_A", factors.right), ("lora_B", factors.left)):
                    tensors[f"{module}.{factor}.weight"] = require_finite(numbers.float(), matrix.name)
                cut.ranks[matrix.name] = factors.rank
                cut.errors[matrix.name] = error
            progress("write", done, len(self.pairs))
        if not tensors:
            raise CheckpointError(
                "base and tuned are equal in every matrix, so the update is empty; pass two models that differ"
            )
        write_adapter(folder, tensors, self._config(cut.ranks), metadata)
        return cut

    def _config(self, ranks: Mapping[str, int]) -> dict[str, Any]:
        """Every scale is 1: alpha is the rank."""
        modules = {self.modules[name]: rank for name, rank in ranks.items()}
        usual, pattern = usual_and_pattern(modules)
        return {
            "peft_type": "LORA",
            **fields_of_base(self.base.source),
            "r": usual,
            "lora_alpha": usual,
            "rank_pattern": pattern,
            "alpha_pattern": pattern,
            "target_modules": sorted(modules),
            "bias": "none",
            "lora_dropout": 0.0,
            "fan_in_fan_out": any(name in self.base.input_first for name in ranks),
            "init_lora_weights": True,
            "inference_mode": True,
            "task_type": self.task_type,
        }


def _outside(tuned: Opened, pairs: Sequence[PairedMatrix]) -> Iterator[str]:
    """Yield the tensors that adapters store, such as norms and biases, and that none of the pairs is."""
    paired = [tensor_of(pair.name) for pair in pairs]
    for part, _ in parts_of(tuned):
        if isinstance(part, Adapter):
            yield from (name for name, _ in part.ignored)
            for name in part.replaced.names():
                if not any(may_be_same(own, name) for own in paired):
                    yield name


def _cut(pair: Pair, change: Change, rank: int | None) -> tuple[LowRank, float]:
    """``W' - W0`` in as many columns as it needs, or the best approximation of ``rank``; and the error of that."""
    if isinstance(pair.tuned, LowRank):
        return change.updated(pair.tuned).cut(rank)
    assert rank is not None  # without one, no target is made for dense updates
    wide = pair.double()
    dense = change.applied_to(wide) - wide.base
    parts = leading_components(Dense(dense), rank)
    roots = parts.values.sqrt().unsqueeze(-1)
    cut = LowRank((roots * parts.left).mT, roots * parts.right).padded(rank)
    norm, rest = float(dense.norm()), float((dense - cut.dense()).norm())
    return cut, rest / norm if norm > 0 else 0.0


def names_for_peft(base: Checkpoint, tuned: Opened, weights: Iterable[str]) -> dict[str, str]:
    """The base's name of each weight -> its name in the model that PEFT puts an adapter on.

    An adapter of PEFT has these names itself. Files of whole models often lack what a class puts before them (hub
    ``gpt2`` has ``h.0.attn``, its class ``transformer.h.0.attn``), or have those of an earlier class. So the names are
    those of the class that the tuned model's config names, or the base's. Without such a class they stay as the tuned
    model has them. A weight is left out that is not known to be one of the class.
    """
    before, sides, _ = sides_of(base, tuned)
    names: dict[str, str] = {}
    models: list[tuple[Checkpoint, Mapping[str, str]]] = []
    for side, _ in sides:
        part = side.part
        if isinstance(part, Checkpoint):
            models.append((part, side.own_names))
        elif part.family != "kohya":
            # Names of kohya, and of parts of a pipeline, are no modules of a model.
            of_parts = {name for name, update in side.updates.items() if update.component}
            names = {name: own for name, own in side.own_names.items() if name not in of_parts} | names
    models.append((before, {name: name for name in before.tensors}))
    rest = [name for name in weights if name not in names]
    for model, own_names in models if rest else []:
        if (in_class := _names_in_class(model)) is not None:
            return names | {
                name: in_class[own_names[name]] for name in rest if own_names.get(name) in in_class
            }
    return names | {name: models[0][1].get(name, name) for name in rest}


def _names_in_class(model: Checkpoint) -> Mapping[str, str] | None:
    """The model's name of each tensor -> its class's; None where transformers has no class for its config."""
    if model.kind != "checkpoint":
        return {name: name for name in model.tensors}
    try:
        shapes = shapes_of_class(model.config)
    except Exception:  # no transformers, no such class, or a config that its class does not take
        return None
    return match_names(model.shapes(), shapes).tuned_of


def warn_of_tensors_left_out(base: Checkpoint, tuned: Checkpoint) -> None:
    """Warn of tuned embeddings, heads, norms and biases, which an adapter of linear layers leaves as the base's."""
    base, (part,), _ = under_common_names(base, [tuned])
    assert isinstance(part, Checkpoint)
    adapted = {tensor_of(pair.name) for pair in pair_sides(base, part).pairs}
    matched = match_names(base.shapes(), part.shapes()).tuned_of
    changed = []
    for name, other in matched.items():
        after = None if name in adapted else part.read(other)
        if after is not None and not torch.equal(base.read(name).to(after.dtype), after):
            changed.append(name)
    if changed:
        warnings.warn(
            f"the adapter leaves out {len(changed)} tensors of the fine-tuning that are no linear layers: "
            f"{some_of(changed)}; write a checkpoint (--as checkpoint) to keep them",
            stacklevel=3,
        )
