"""What each part holds for each tensor of the base: the third stage of pairing, and the only matching of a part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ...errors import PairingError, some_of
from ..adapters.adapter import AdaptedWeight, Adapter, Shape
from ..adapters.binding import require_linear
from ..opening.model_sum import Part
from ..opening.other_formats import format_of_names
from ..stored.checkpoint import Checkpoint, StoredTensor
from ..stored.matching import Matching, match_names, same_shape
from ..stored.matrices import holds_experts, matrix_shape, not_a_matrix
from ..stored.names import is_embedding_or_head, looks_up_tokens, scores_tokens
from ..stored.tied import ties
from .acted_on import Acting, acting_parts
from .pairing import SkipKind, Skipped

_NAMED_OTHERWISE = (
    "; transformers may name its tensors otherwise in memory than the file does; merge the adapter with PEFT "
    "(merge_and_unload, save_pretrained), and pass the merged model"
)


@dataclass(frozen=True)
class Side:
    """A part of the tuned side by the base's names."""

    acting: Acting
    base: Checkpoint  # what it acts on, with what its own shapes tell of how weights are stored
    updates: Mapping[str, AdaptedWeight] = field(repr=False)
    tensors: Mapping[str, StoredTensor] = field(repr=False)  # that it holds in full
    lacking: tuple[str, SkipKind]  # why a tensor of the base that it does not hold is not audited
    skipped: list[Skipped]  # of its own tensors, those that no matrix of the base is for
    notes: list[str]
    # The base's name -> the part's own.
    own_names: Mapping[str, str] = field(default_factory=dict, repr=False)

    def holds(self, name: str) -> bool:
        return name in self.updates or name in self.tensors

    @property
    def added(self) -> dict[str, StoredTensor]:
        """What an adapter stores in full and its base has no tensor for: a new head."""
        if not isinstance(self.acting.part, Adapter):
            return {}
        stored = self.acting.part.replaced.tensors
        added = {
            skipped.name: stored[skipped.name]
            for skipped in self.skipped
            if skipped.kind == SkipKind.NO_COUNTERPART and skipped.name in stored
        }
        tied = {name.removesuffix(".weight") for name, head in added.items() if self._is_tied(name, head)}
        return {name: head for name, head in added.items() if name.rpartition(".")[0] not in tied}

    def _is_tied(self, name: str, head: StoredTensor) -> bool:
        """Return whether a head that the base's file lacks is its embedding: PEFT stores the two, and a file one."""
        if not scores_tokens(name) or ties(self.base.config) is False:
            return False
        embeddings = [self.base.shape(own) for own in self.base.names() if looks_up_tokens(own)]
        embeddings += [tensor.shape for own, tensor in self.tensors.items() if looks_up_tokens(own)]
        return head.shape in embeddings

    @property
    def biases(self) -> dict[str, str]:
        """The base's biases that the adapter changes with a weight, each with the name of the weight."""
        return {
            _bias_beside(weight): weight for weight, update in self.updates.items() if update.bias is not None
        }


def side_of(acting: Acting) -> Side:
    """Match a part with what it acts on.

    Raises:
      PairingError: the two do not belong together; the text says which tensors do not match, and how many do.
    """
    if isinstance(acting.part, Adapter):
        return _adapter_side(acting, acting.part)
    return _checkpoint_side(acting, acting.part)


def sides_of(base: Checkpoint, parts: Sequence[Part]) -> list[Side]:
    """Each part matched with what it acts on; base and parts are under common names.

    Raises:
      PairingError: one does not belong to the base.
    """
    return [side_of(acting) for acting in acting_parts(base, parts)]


def _checkpoint_side(acting: Acting, tuned: Checkpoint) -> Side:
    base = acting.base
    matching = match_names(base.shapes(), tuned.shapes())
    _require_same_architecture(base, tuned, matching)
    matched = set(matching.tuned_of.values())
    return Side(
        acting,
        replace(base, input_first=base.input_first | _input_first_in(tuned, base, matching)),
        {},
        {name: tuned.tensors[other] for name, other in matching.tuned_of.items()},
        ("missing in tuned", SkipKind.NO_COUNTERPART),
        [
            Skipped(name, "missing in base", SkipKind.NO_COUNTERPART)
            for name in tuned.names()
            if name not in matched and name not in base.tied
        ]
        + [Skipped(name, reason) for name, reason in tuned.ignored if (name, reason) not in base.ignored],
        matching.in_words(),
        matching.tuned_of,
    )


def _adapter_side(acting: Acting, adapter: Adapter) -> Side:
    base, replaced = acting.base, adapter.replaced
    shapes = _shapes_for_adapters(base)
    updates = adapter.updates_for(base, shapes)
    matching = match_names(shapes, replaced.shapes() | {update.name: update.full_shape for update in updates})
    elsewhere = _require_modules(base, adapter, updates, shapes, matching)
    by_name = {update.name: update for update in updates}
    matched = set(matching.tuned_of.values())
    side = Side(
        acting,
        base,
        {
            name: _with_its_bias(by_name[other], base, name)
            for name, other in matching.tuned_of.items()
            if other in by_name
        },
        {name: replaced.tensors[other] for name, other in matching.tuned_of.items() if other not in by_name},
        ("unchanged", SkipKind.UNCHANGED),
        [
            Skipped(name, "missing in base", SkipKind.NO_COUNTERPART)
            for name in replaced.names()
            if name not in matched
        ]
        + elsewhere
        + [Skipped(name, reason) for name, reason in adapter.ignored],
        adapter.notes + matching.in_words(),
        matching.tuned_of,
    )
    if side.biases:
        changed = f"changes {len(side.biases)} biases with its matrices"
        side.notes.insert(0, f"the adapter '{adapter.source}' {changed}, which are not audited")
    return side


def _with_its_bias(update: AdaptedWeight, base: Checkpoint, weight: str) -> AdaptedWeight:
    bias = base.tensors.get(_bias_beside(weight))
    return update if update.with_bias is None or bias is None else update.with_bias(bias)


def _bias_beside(weight: str) -> str:
    return f"{weight.removesuffix('.weight')}.bias"


def _input_first_in(tuned: Checkpoint, base: Checkpoint, matching: Matching) -> set[str]:
    """The base's weights that are stored (in, out) as far as the tuned model's shapes tell.

    A few square weights alone do not say which of their sides is the output; beside others they do.
    """
    return {
        name
        for name, other in matching.tuned_of.items()
        if other in tuned.input_first and tuned.shape(other) == base.shape(name)
    }


def _require_same_architecture(base: Checkpoint, tuned: Checkpoint, matching: Matching) -> None:
    ours = [name for name in base.names() if _is_inner_matrix(base, name)]
    theirs = [name for name in tuned.names() if _is_inner_matrix(tuned, name)]
    if not ours or not theirs:
        without = base if not ours else tuned
        raise PairingError(
            f"'{without.source}' has no two-dimensional weight of floating-point numbers apart from embeddings and "
            "heads; expected a model"
        )
    tuned_of = matching.tuned_of
    same = {name for name in ours if name in tuned_of and tuned.shape(tuned_of[name]) == base.shape(name)}
    if 2 * len(same) >= min(len(ours), len(theirs)):
        return
    shapes = [
        f"{name} {base.shape(name)} and {tuned.shape(tuned_of[name])}"
        for name in ours
        if name in tuned_of and name not in same
    ]
    matched = set(tuned_of.values())
    parts = [f"{len(same)} of {len(ours)} matrices match"]
    for title, names in (
        ("of other shape", shapes),
        ("only in base", [name for name in ours if name not in tuned_of]),
        ("only in tuned", [name for name in theirs if name not in matched]),
    ):
        if names:
            parts.append(f"{title}: {some_of(names)}")
    raise PairingError(
        f"'{base.source}' and '{tuned.source}' are of different architectures: {'; '.join(parts)}"
        + _other_format(base, tuned)
    )


def _other_format(base: Checkpoint, tuned: Checkpoint) -> str:
    """Return which of the two is of another program's format, where the other is not."""
    of_base, of_tuned = format_of_names(base.names()), format_of_names(tuned.names())
    if of_base == of_tuned:
        return ""
    return "".join(f"; '{side.source}' {said}" for side, said in ((base, of_base), (tuned, of_tuned)) if said)


def _require_modules(
    base: Checkpoint,
    adapter: Adapter,
    updates: list[AdaptedWeight],
    shapes: Mapping[str, Shape],
    matching: Matching,
) -> list[Skipped]:
    """Raise unless the base has every weight; whole parts of a pipeline may be elsewhere."""
    base_of = matching.base_of
    present = {update.component for update in updates if update.name in base_of}
    lost = [
        update
        for update in updates
        if update.name not in base_of and (update.component in present or not present)
    ]
    joined = [
        update.name for update in lost if f"{update.name.removesuffix('weight')}in_proj_weight" in shapes
    ]
    if joined:
        raise PairingError(
            f"the adapter '{adapter.source}' changes '{joined[0].removesuffix('.weight')}', which in "
            f"'{base.source}' is torch's MultiheadAttention; expected layers whose weights have names of their own; "
            "merge the adapter with PEFT (merge_and_unload), save the merged weights, and pass them"
        )
    other = format_of_names(update.name for update in lost)
    if other and not format_of_names(shapes):
        raise PairingError(
            f"the adapter '{adapter.source}' {other}; '{base.source}' lacks {len(lost)} of the {len(updates)} weights "
            f"it changes: {some_of(list(dict.fromkeys(update.name for update in lost)))}"
        )
    if lost:
        sizes = {shape for name, shape in shapes.items() if name not in matching.tuned_of}
        are_there = all(any(same_shape(size, update.full_shape) for size in sizes) for update in lost)
        raise PairingError(
            f"the adapter '{adapter.source}' is for another base: '{base.source}' lacks {len(lost)} of the "
            f"{len(updates)} weights it changes: {some_of(list(dict.fromkeys(update.name for update in lost)))}"
            + (_NAMED_OTHERWISE if are_there or matching.renamed else "")
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
    require_linear(base, adapter, [base_of[update.name] for update in updates if update.needs_linear])
    return [
        Skipped(update.name, f"for another part of the pipeline ({update.component})")
        for update in updates
        if update.name not in base_of
    ]


def _shapes_for_adapters(base: Checkpoint) -> dict[str, Shape]:
    """Every tensor's shape as an adapter sees it: (out, in), or (experts, out, in)."""
    return {
        name: _shape_for_adapters(base, base.tied.get(name, name)) for name in (*base.names(), *base.tied)
    }


def _shape_for_adapters(base: Checkpoint, name: str) -> Shape:
    shape, input_first = base.tensors[name].shape, name in base.input_first
    if len(shape) < 2:
        return shape
    if holds_experts(name, shape):
        experts, first, second = shape
        return (experts, second, first) if input_first else shape
    return matrix_shape(shape, input_first)


def _is_inner_matrix(checkpoint: Checkpoint, name: str) -> bool:
    return not_a_matrix(checkpoint.tensors[name]) is None and not is_embedding_or_head(name)
