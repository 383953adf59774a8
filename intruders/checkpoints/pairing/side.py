"""What each part of the tuned side acts on and holds for each tensor of the base: the second stage of pairing.

An adapter acts on the base or, in a sum with full checkpoints, on the base as these changed it: one that came out of
training such a checkpoint belongs to that, and one whose start changed its base to what the start left.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from torch import Tensor

from ...errors import PairingError, some_of
from ..adapters.adapter import AdaptedWeight, Adapter
from ..adapters.by_formula import widened
from ..adapters.peft_types import require_linear
from ..opening.model_sum import Part, parts_of
from ..opening.open import Opened
from ..opening.other_formats import format_of_names
from ..stored.checkpoint import Checkpoint, StoredTensor, Tensors
from ..stored.matrices import not_a_matrix, shapes_for_adapters
from ..stored.names import (
    Matching,
    Shapes,
    is_embedding_or_head,
    looks_up_tokens,
    match_names,
    same_shape,
    scores_tokens,
)
from ..stored.tied import ties
from .names_of_base import under_common_names
from .pairing import SkipKind, Skipped


def sides_of(base: Checkpoint, tuned: Opened) -> "tuple[Checkpoint, list[tuple[Side, float]], list[str]]":
    """The base under common names, a side and weight of each part, and notes; PairingError if one is for another."""
    base, parts, notes = under_common_names(base, [part for part, _ in parts_of(tuned)])
    checkpoints = [part for part in parts if isinstance(part, Checkpoint)]
    changed = _with_checkpoints(base, checkpoints) if 0 < len(checkpoints) < len(parts) else base
    sides = []
    for part in parts:
        if isinstance(part, Checkpoint):
            sides.append(_checkpoint_side(part, base))
        else:
            adapter = replace(part, start=None) if checkpoints else _on_original(part)
            sides.append(_adapter_side(adapter, changed, tuple(own.source for own in checkpoints)))
    weights = [weight for _, weight in parts_of(tuned)]
    return base, list(zip(sides, weights, strict=True)), notes


def _with_checkpoints(base: Checkpoint, checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    """W1 = W0 + sum_i (W_i - W0) under the base's names; of a single checkpoint its own tensors, as stored."""
    shapes = base.shapes()
    others: dict[str, list[StoredTensor]] = {name: [] for name in shapes}
    for checkpoint in checkpoints:
        for name, other in match_names(shapes, checkpoint.shapes()).tuned_of.items():
            if checkpoint.tensors[other].shape == shapes[name]:
                others[name].append(checkpoint.tensors[other])

    def changed(name: str) -> Tensor:
        before = widened(base.read(name))
        return before + sum((widened(other.read()) - before for other in others[name]), before.new_zeros(()))

    tensors = {name: others[name][0] if others[name] else stored for name, stored in base.tensors.items()}
    for name in (name for name, several in others.items() if len(several) > 1):
        tensors[name] = replace(base.tensors[name], read=partial(changed, name), read_one=None)
    return replace(base, tensors=tensors)


def _on_original(adapter: Adapter) -> Adapter:
    """The adapter on the base as it was before the start, which PEFT repeats as it does when it loads the adapter."""
    if adapter.start is None:
        return adapter
    if adapter.repeated is None:
        raise PairingError(
            f"the adapter '{adapter.source}' started from its base's own weights ({adapter.start}) and was not "
            "converted, so that it belongs to the base as that start left it; convert it with PEFT "
            "(path_initial_model_for_weight_conversion), or pass BASE and CHANGED_BASE+ADAPTER"
        )
    note = f"the start '{adapter.start}' of '{adapter.source}' was repeated here, on the base's own weights"
    return replace(
        adapter,
        updates=adapter.repeated,
        start=None,
        beneath={},  # what the start left, and not the base's own
        decomposes=adapter.decomposes or adapter.start == "pissa",
        notes=[note, *adapter.notes],
    )


@dataclass(frozen=True)
class Side:
    """A part of the tuned side by the base's names."""

    part: Part
    base: Checkpoint  # what it acts on, with what its own shapes tell of how weights are stored
    updates: Mapping[str, AdaptedWeight] = field(repr=False)
    tensors: Tensors = field(repr=False)  # that it holds in full
    skipped: list[Skipped]  # of its own tensors, those that no matrix of the base is for
    notes: list[str]
    # The base's name -> the part's own.
    own_names: Mapping[str, str] = field(default_factory=dict, repr=False)
    # The names of the checkpoints that made ``base`` out of the base that is audited; empty where it is that base.
    made_by: tuple[str, ...] = ()

    def holds(self, name: str) -> bool:
        return name in self.updates or name in self.tensors

    @property
    def added(self) -> dict[str, StoredTensor]:
        """What an adapter stores in full and its base has no tensor for: a new head, and none that is the embedding."""
        assert isinstance(self.part, Adapter)
        stored = self.part.replaced.tensors
        lacking = {skipped.name for skipped in self.skipped if skipped.kind == SkipKind.NO_COUNTERPART}
        added = {name: tensor for name, tensor in stored.items() if name in lacking}
        if ties(self.base.config) is False:
            return added
        embeddings = [self.base.shape(own) for own in self.base.names() if looks_up_tokens(own)]
        embeddings += [tensor.shape for own, tensor in self.tensors.items() if looks_up_tokens(own)]
        heads = [name for name, head in added.items() if scores_tokens(name) and head.shape in embeddings]
        tied = {name.removesuffix(".weight") for name in heads}
        return {name: head for name, head in added.items() if name.rpartition(".")[0] not in tied}

    @property
    def biases(self) -> dict[str, str]:
        """The base's biases that the adapter changes with a weight, each with the name of the weight."""
        return {
            _bias_beside(weight): weight for weight, update in self.updates.items() if update.bias is not None
        }


def _checkpoint_side(tuned: Checkpoint, base: Checkpoint) -> Side:
    matching = match_names(base.shapes(), tuned.shapes())
    _require_same_architecture(base, tuned, matching)
    tuned_of, base_of = matching.tuned_of, matching.base_of
    # A few square weights alone do not say which of their sides is the output; beside others, as in tuned, they do.
    input_first = {
        base_of[name]
        for name in tuned.input_first & base_of.keys()
        if tuned.shape(name) == base.shape(base_of[name])
    }
    lacking = [name for name in tuned.names() if name not in base_of and name not in base.tied]
    return Side(
        tuned,
        replace(base, input_first=base.input_first | input_first),
        {},
        {name: tuned.tensors[other] for name, other in tuned_of.items()},
        [Skipped(name, "missing in base", SkipKind.NO_COUNTERPART) for name in lacking]
        + [Skipped(*entry) for entry in tuned.ignored if entry not in base.ignored],
        matching.in_words(),
        tuned_of,
    )


def _adapter_side(adapter: Adapter, base: Checkpoint, made_by: tuple[str, ...]) -> Side:
    stored, shapes = adapter.replaced, shapes_for_adapters(base)
    all_updates = adapter.updates if adapter.named_for is None else adapter.named_for(base, shapes)
    updates = {update.name: update for update in all_updates}
    full_shapes = {name: update.full_shape for name, update in updates.items()}
    matching = match_names(shapes, stored.shapes() | full_shapes)
    elsewhere = _require_modules(base, adapter, all_updates, shapes, matching)
    made: dict[str, AdaptedWeight] = {}
    in_full: dict[str, StoredTensor] = {}
    for name, other in matching.tuned_of.items():
        if other not in updates:
            in_full[name] = stored.tensors[other]
            continue
        update, bias = updates[other], base.tensors.get(_bias_beside(name))
        made[name] = update if update.with_bias is None or bias is None else update.with_bias(bias)
    base_of = matching.base_of
    lacking = [name for name in stored.names() if name not in base_of]
    side = Side(
        adapter,
        base,
        made,
        in_full,
        [Skipped(name, "missing in base", SkipKind.NO_COUNTERPART) for name in lacking]
        + elsewhere
        + [Skipped(name, reason) for name, reason in adapter.ignored],
        adapter.notes + matching.in_words(),
        matching.tuned_of,
        made_by,
    )
    if side.biases:
        changed = f"changes {len(side.biases)} biases with its matrices"
        side.notes.insert(0, f"the adapter '{adapter.source}' {changed}, which are not audited")
    return side


def _bias_beside(weight: str) -> str:
    return f"{weight.removesuffix('.weight')}.bias"


def _require_same_architecture(base: Checkpoint, tuned: Checkpoint, matching: Matching) -> None:
    ours, theirs = (
        [
            name
            for name, stored in side.tensors.items()
            if not_a_matrix(stored) is None and not is_embedding_or_head(name)
        ]
        for side in (base, tuned)
    )
    if not ours or not theirs:
        without = base if not ours else tuned
        raise PairingError(
            f"'{without.source}' has no two-dimensional weight of floating-point numbers apart from embeddings and "
            "heads; expected a model"
        )
    tuned_of, base_of = matching.tuned_of, matching.base_of
    both = [(name, base.shape(name), tuned.shape(tuned_of[name])) for name in ours if name in tuned_of]
    different = [f"{name} {shape} and {other}" for name, shape, other in both if shape != other]
    same = len(both) - len(different)
    if 2 * same >= min(len(ours), len(theirs)):
        return
    said = [f"{same} of {len(ours)} matrices match"]
    for title, names in (
        ("of other shape", different),
        ("only in base", [name for name in ours if name not in tuned_of]),
        ("only in tuned", [name for name in theirs if name not in base_of]),
    ):
        said += [f"{title}: {some_of(names)}"] if names else []
    # Which of the two is of another program's format, where the other is not.
    forms = [(side.source, format_of_names(side.names())) for side in (base, tuned)]
    if forms[0][1] != forms[1][1]:
        said += [f"'{source}' {form}" for source, form in forms if form]
    raise PairingError(
        f"'{base.source}' and '{tuned.source}' are of different architectures: {'; '.join(said)}"
    )


def _require_modules(
    base: Checkpoint,
    adapter: Adapter,
    updates: list[AdaptedWeight],
    shapes: Shapes,
    matching: Matching,
) -> list[Skipped]:
    """Raise unless the base has every weight; whole parts of a pipeline may be elsewhere."""
    base_of = matching.base_of
    absent = [update for update in updates if update.name not in base_of]
    present = {update.component for update in updates if update.name in base_of}
    lost = [update for update in absent if update.component in present or not present]
    joined = [
        update.name for update in lost if f"{update.name.removesuffix('weight')}in_proj_weight" in shapes
    ]
    if joined:
        raise PairingError(
            f"the adapter '{adapter.source}' changes '{joined[0].removesuffix('.weight')}', which in "
            f"'{base.source}' is torch's MultiheadAttention; expected layers whose weights have names of their own; "
            "merge the adapter with PEFT (merge_and_unload), save the merged weights, and pass them"
        )
    if lost:
        other = "" if format_of_names(shapes) else format_of_names(update.name for update in lost)
        sizes = {shape for name, shape in shapes.items() if name not in matching.tuned_of}
        are_there = all(any(same_shape(size, update.full_shape) for size in sizes) for update in lost)
        names = some_of(list(dict.fromkeys(update.name for update in lost)))
        if other:
            raise PairingError(
                f"the adapter '{adapter.source}' {other}; '{base.source}' lacks {len(lost)} of the {len(updates)} "
                f"weights it changes: {names}"
            )
        what_to_do = ""
        if are_there or matching.renamed:
            what_to_do = (
                "; transformers may name its tensors otherwise in memory than the file does; merge the adapter with "
                "PEFT (merge_and_unload, save_pretrained), and pass the merged model"
            )
        raise PairingError(
            f"the adapter '{adapter.source}' is for another base: '{base.source}' lacks {len(lost)} of the "
            f"{len(updates)} weights it changes: {names}{what_to_do}"
        )
    wrong = [
        f"{base_of[update.name]} is {shapes[base_of[update.name]]} and the adapter's is {update.full_shape}"
        for update in updates
        if update.name in base_of and not same_shape(shapes[base_of[update.name]], update.full_shape)
    ]
    if wrong:
        raise PairingError(
            f"the adapter '{adapter.source}' is for another base: {len(wrong)} of {len(updates)} weights of "
            f"'{base.source}' have another shape: {some_of(wrong)}"
        )
    made_by_peft = [update.name for update in updates if update.merged is not None]
    require_linear(base, adapter, [base_of[name] for name in made_by_peft])
    return [
        Skipped(update.name, f"for another part of the pipeline ({update.component})") for update in absent
    ]
