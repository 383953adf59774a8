"""Names of tensors: their order, embeddings, layer and kind, and which of a tuned model's are which of its base's."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field

from .renamed import OF_EVERY_MODEL, OF_FAMILIES, WRAPPERS, Renames, in_memory

_DIGITS = re.compile(r"(\d+)")

# Last module names under which the libraries keep token, position and type embeddings, and output heads. Short names
# are those of a head only where no module stands before them.
_HEAD_NAMES = (
    r"\w*lm_head|lm_head\.decoder|embed_out|score|classifier|qa_outputs|predictions\.decoder|output_projection"
    r"|transformer\.(?:output_layer|ff_out)"
)
_HEAD_OF_ROOT = r"(?:output|head|decoder)"
_EMBEDDING = re.compile(
    r"(?:^|\.)(?:embed_tokens\w*|tokens_embed|embed_positions|positions_embed|embed_in|embeddings?|tok_embeddings"
    r"|token_embedding|token_embd|rel_embeddings|relative_attention_bias|\w*word_embeddings?|\w*position_embeddings?"
    rf"|token_type_embeddings|wte|wpe|shared|{_HEAD_NAMES})(?:\.weight)?$|^{_HEAD_OF_ROOT}\.weight$"
)


def natural_order(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key under which layer 2 comes before layer 10; of equal numbers, such as 1 and 01, the text decides."""
    parts = [
        (0, int(part), "") if part.isdecimal() and len(part) < 19 else (1, 0, part)
        for part in _DIGITS.split(name)
    ]
    return parts, name


_HEAD = re.compile(rf"(?:^|\.)(?:{_HEAD_NAMES})(?:\.weight)?$|^{_HEAD_OF_ROOT}(?:\.weight)?$")
_CLASSES = re.compile(r"(?:^|\.)(?:score|classifier|qa_outputs)(?:\.weight)?$")


def looks_up_tokens(name: str) -> bool:
    """Return whether a tensor of this name is an embedding, and not an output head, which is a linear layer."""
    return is_embedding_or_head(name) and _HEAD.search(name) is None


def scores_tokens(name: str) -> bool:
    """Return whether a tensor of this name is an output head over tokens, and not one over classes."""
    return _HEAD.search(name) is not None and not scores_classes(name)


def scores_classes(name: str) -> bool:
    """Return whether a tensor of this name is an output head over classes."""
    return _CLASSES.search(name) is not None


def is_embedding_or_head(name: str) -> bool:
    """Return whether a tensor of this name looks up or scores tokens or classes."""
    return _EMBEDDING.search(name) is not None


def may_be_same(one: str, other: str) -> bool:
    """Return whether two names may be of one tensor, of which one has a prefix that the other lacks.

    >>> may_be_same("bert.encoder.weight", "encoder.weight"), may_be_same("h.1.q.weight", "h.11.q.weight")
    (True, False)
    """
    return one == other or one.endswith(f".{other}") or other.endswith(f".{one}")


_EXPERT = re.compile(r"\[\d+\]$")
_PART_OF_TENSOR = re.compile(r"(?:\[[^\]]*\])+$")


def tensor_of(matrix: str) -> str:
    """Return the tensor that holds a matrix: its name without an expert's number or the part of a fused weight.

    >>> tensor_of("h.0.experts.weight[3]"), tensor_of("h.0.qkv.weight[q]"), tensor_of("h.0.o.weight")
    ('h.0.experts.weight', 'h.0.qkv.weight', 'h.0.o.weight')
    """
    return _PART_OF_TENSOR.sub("", matrix)


@dataclass(frozen=True)
class ModulePath:
    """The position of one matrix; two matrices of one kind in different layers differ in `layer` only."""

    stack: str  # what stands before the layer's number; "" for a matrix outside the layers
    layer: int | None
    kind: str

    @property
    def layer_label(self) -> str:
        """The layer with what stands before its number; of a matrix outside the layers, its kind.

        >>> [path.layer_label for path in module_paths(["model.layers.2.o.weight", "head.weight"])]
        ['model.layers.2', 'head']
        """
        return self.kind if self.layer is None else f"{self.stack}.{self.layer}".lstrip(".")


def module_paths(names: Sequence[str]) -> list[ModulePath]:
    """Return the path of every name, in order.

    A kind is as short as it can be without standing for two kinds of module of the same model: `q_proj` says
    enough in Llama, but `dense` does not in BERT, nor `c_proj` in GPT-2.
    """
    split = [_split(name) for name in names]
    tails = {tail for _, _, tail in split}
    shared = Counter(tail[start:] for tail in tails for start in range(len(tail)))
    kinds = {tail: _shortest_unshared(tail, shared) for tail in tails}
    return [ModulePath(stack=prefix, layer=layer, kind=kinds[tail]) for prefix, layer, tail in split]


def _split(name: str) -> tuple[str, int | None, tuple[str, ...]]:
    parts = [part for part in _EXPERT.sub("", name).split(".") if part]
    if len(parts) > 1 and parts[-1] == "weight":
        parts = parts[:-1]
    numbers = [i for i, part in enumerate(parts) if part.isdecimal()]
    if not numbers:
        return "", None, tuple(parts) or ("weight",)
    first = numbers[0]
    # Later numbers count experts or blocks within the layer, and are one kind.
    tail = tuple(part for part in parts[first + 1 :] if not part.isdecimal())
    return ".".join(parts[:first]), int(parts[first]), tail or tuple(parts[:first]) or ("weight",)


def _shortest_unshared(tail: tuple[str, ...], shared: Counter[tuple[str, ...]]) -> str:
    for length in range(1, len(tail) + 1):
        if shared[tail[-length:]] == 1:
            return ".".join(tail[-length:])
    return ".".join(tail)


Shape = tuple[int, ...]

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True)
class PrefixRule:
    """Tensors named ``tuned_prefix + rest`` on the tuned side are ``base_prefix + rest`` of the base."""

    base_prefix: str
    tuned_prefix: str
    tensors: int  # matched by it


@dataclass(frozen=True)
class Matching:
    """Base name -> tuned name, and what beyond equality was needed for it."""

    tuned_of: dict[str, str]
    rules: list[PrefixRule] = field(default_factory=list)
    renamed: int = 0  # tensors matched by the names that transformers gives them in memory

    @property
    def base_of(self) -> dict[str, str]:
        """Tuned name -> base name."""
        return {other: name for name, other in self.tuned_of.items()}

    def named_otherwise(self, base: Mapping[str, Shape], tuned: Mapping[str, Shape]) -> list[str]:
        """Return the base's tensors without a counterpart that the other side may have under a name not known here.

        These are tensors of layers for which the other side has one left of the same shape. A head that was
        exchanged is outside the layers.
        """
        matched = set(self.tuned_of.values())
        left = {shape for name, shape in tuned.items() if name not in matched and _NUMBER.search(name)}
        return [
            name
            for name, shape in base.items()
            if name not in self.tuned_of and shape in left and _NUMBER.search(name)
        ]

    def in_words(self) -> list[str]:
        """Return in words what was matched other than by equal names."""
        by_prefix = [
            f"'{rule.tuned_prefix}' of tuned for '{rule.base_prefix}' of base: {rule.tensors} tensors"
            for rule in self.rules
        ]
        if not self.renamed:
            return by_prefix
        return [
            *by_prefix,
            f"names in a file for those that transformers gives in memory: {self.renamed} tensors",
        ]


def match_names(base: Mapping[str, Shape], tuned: Mapping[str, Shape]) -> Matching:
    """Match tensors by equal names first, then by their names in memory, then by prefixes.

    What is left after equal names is compared under the names that transformers gives the tensors of a file in memory
    (``renamed.py``). Of the families of models that have such names, one counts if more tensors of one shape match
    with it than without, and no tensors of layers that have other shapes.

    Two names with a common ending of two or more parts vote for the pair of prefixes before it, if their
    shapes are equal and no number is in the prefixes (a layer is never taken for another). The pair with the
    most votes becomes a rule for all names, whatever their shapes, and so on while a rule explains half of
    what either side has under its prefix, and more than a single matrix unless nothing has matched yet.
    """
    tuned_of = {name: name for name in base if name in tuned}
    if len(tuned_of) == len(base) or len(tuned_of) == len(tuned):
        return Matching(tuned_of)
    ours = _Names.left(base, tuned_of).renamed(OF_EVERY_MODEL)
    theirs = _Names.left(tuned, tuned_of).renamed(OF_EVERY_MODEL)
    ours, theirs = _of_one_family(ours, theirs, bool(tuned_of))
    matched, rules = _matched(ours.shapes, theirs.shapes, bool(tuned_of))
    renamed = 0
    for called, other in matched.items():
        name, own = ours.names[called], theirs.names[other]
        tuned_of[name] = own
        renamed += (called, other) != (name, own)
    return Matching(tuned_of, rules, renamed)


@dataclass(frozen=True)
class _Names:
    """The tensors of one side that have no equal on the other, by the names under which they are compared."""

    shapes: dict[str, Shape]
    names: dict[str, str]  # the name under which a tensor is compared -> its own
    taken: Mapping[str, Shape]  # every tensor of the side, by its own name

    @classmethod
    def left(cls, side: Mapping[str, Shape], matched: Container[str]) -> _Names:
        shapes = {name: shape for name, shape in side.items() if name not in matched}
        return cls(shapes, {name: name for name in shapes}, side)

    def renamed(self, renames: Renames) -> _Names:
        """The same tensors under their names in memory."""
        new = in_memory(self.shapes, renames, self.taken)
        return _Names(
            {new[name]: shape for name, shape in self.shapes.items()},
            {new[called]: own for called, own in self.names.items()},
            self.taken,
        )

    @property
    def kinds(self) -> dict[str, Shape]:
        """One name for all layers and experts, also ``layers_12``; the shapes say only how many sides a tensor has."""
        return {_DIGITS.sub("0", name): (-1,) * len(shape) for name, shape in self.shapes.items()}


def _of_one_family(ours: _Names, theirs: _Names, some_match: bool) -> tuple[_Names, _Names]:
    """Both sides under the names of the family of models that lets the most tensors match, if any does.

    One side alone is renamed at a time: the other has the names in memory already. A model may be made of models of
    several families, each of which adds to what matches.
    """
    while True:
        kinds, others = ours.kinds, theirs.kinds
        best = len(_matched(kinds, others, False)[0])
        if best == min(len(kinds), len(others)):
            return ours, theirs
        chosen: tuple[_Names, _Names] | None = None
        for renames in OF_FAMILIES.values():
            for is_ours in (True, False):
                kinds_of_side = kinds if is_ours else others
                new = in_memory(kinds_of_side, renames)
                if all(name == called for name, called in new.items()):
                    continue
                moved = {new[name]: shape for name, shape in kinds_of_side.items()}
                score = len(_matched(*((moved, others) if is_ours else (kinds, moved)), False)[0])
                if score > best:
                    best = score
                    chosen = (ours.renamed(renames), theirs) if is_ours else (ours, theirs.renamed(renames))
        if chosen is None:
            return ours, theirs
        before, after = _alike(ours, theirs, some_match), _alike(*chosen, some_match)
        if after[0] <= before[0] or after[1] > before[1]:
            return ours, theirs
        ours, theirs = chosen


def _alike(ours: _Names, theirs: _Names, some_match: bool) -> tuple[int, int]:
    """Count the tensors of one shape that match, and those of layers that match and have other shapes.

    GPT-2 has some of the names of EXAONE's file. A vocabulary may have grown; a layer of other shapes is another's.
    """
    matched, _ = _matched(ours.shapes, theirs.shapes, some_match)
    same = {name for name, other in matched.items() if same_shape(ours.shapes[name], theirs.shapes[other])}
    return len(same), sum(name not in same and _NUMBER.search(name) is not None for name in matched)


def _matched(
    base: Mapping[str, Shape], tuned: Mapping[str, Shape], some_match: bool
) -> tuple[dict[str, str], list[PrefixRule]]:
    """Match by equal names and by prefixes; ``some_match`` says whether others of the two models do already."""
    tuned_of = {name: name for name in base if name in tuned}
    left_base = [name for name in base if name not in tuned_of]
    left_tuned = [name for name in tuned if name not in tuned_of]
    rules: list[PrefixRule] = []
    while left_base and left_tuned:
        chosen = _chosen_rule(left_base, left_tuned, base, tuned)
        if chosen is None:
            break
        (base_prefix, tuned_prefix), count = chosen
        base_rests, tuned_rests = _rests(left_base, base_prefix), _rests(left_tuned, tuned_prefix)
        # One matrix beside others that match already is a coincidence of endings: `pooler.dense` is no
        # `classifier.dense`.
        if count < 2 and (tuned_of or some_match):
            break
        if 2 * count < min(_matrices(base_rests, base), _matrices(tuned_rests, tuned)):
            break
        explained = _explained(left_base, left_tuned, (base_prefix, tuned_prefix))
        tuned_of |= explained
        rules.append(PrefixRule(base_prefix, tuned_prefix, len(explained)))
        taken = set(explained.values())
        left_base = [name for name in left_base if name not in explained]
        left_tuned = [name for name in left_tuned if name not in taken]
    return tuned_of, rules


def _chosen_rule(
    left_base: list[str], left_tuned: list[str], base: Mapping[str, Shape], tuned: Mapping[str, Shape]
) -> tuple[tuple[str, str], int] | None:
    """The pair of prefixes with the most votes, and these; None where equally good ones want the same tensors.

    A vision and a text tower of one shape are no ground for choosing, if both could be the one tower of the other side.
    Two towers on each side are, each with its own counterpart. Single tensors with one vote each are a coincidence.
    """
    votes = _votes(left_base, left_tuned, base, tuned)
    most = max(votes.values(), default=0)
    best = [rule for rule, count in votes.items() if count == most]
    if len(best) > 1 and most < 2:
        return None
    if len(best) > 1:
        explained = [_explained(left_base, left_tuned, rule) for rule in best]
        wanted = Counter(name for of_rule in explained for name in of_rule)
        offered = Counter(other for of_rule in explained for other in of_rule.values())
        if max(wanted.values()) > 1 or max(offered.values()) > 1:
            return None
    return (best[0], most) if best else None


def _explained(left_base: list[str], left_tuned: list[str], rule: tuple[str, str]) -> dict[str, str]:
    base_rests, tuned_rests = _rests(left_base, rule[0]), _rests(left_tuned, rule[1])
    return {name: tuned_rests[rest] for rest, name in base_rests.items() if rest in tuned_rests}


def same_shape(first: Shape, second: Shape) -> bool:
    """Return whether two shapes are equal, where -1 stands for a size that is not known."""
    return len(first) == len(second) and all(
        a == b or -1 in (a, b) for a, b in zip(first, second, strict=True)
    )


def plain(name: str) -> str:
    """The name without the parts that wrappers add inside it, and without DataParallel's ``module.``."""
    parts = [part for part in name.split(".") if part not in WRAPPERS]
    return ".".join(parts[1:] if len(parts) > 2 and parts[0] == "module" else parts)


def _rests(names: list[str], prefix: str) -> dict[str, str]:
    return {plain(name).removeprefix(prefix): name for name in names if plain(name).startswith(prefix)}


def _matrices(rests: Mapping[str, str], shapes: Mapping[str, Shape]) -> int:
    return sum(len(shapes[name]) >= 2 for name in rests.values())


def _votes(
    left_base: list[str], left_tuned: list[str], base: Mapping[str, Shape], tuned: Mapping[str, Shape]
) -> Counter[tuple[str, str]]:
    """Count the matrices that each pair of prefixes would match; vectors are too similar to tell anything."""
    endings: dict[str, list[tuple[str, Shape]]] = {}
    for name in left_base:
        for prefix, rest in _splits(plain(name)):
            endings.setdefault(rest, []).append((prefix, base[name]))
    votes: Counter[tuple[str, str]] = Counter()
    for name in left_tuned:
        if len(tuned[name]) < 2:
            continue
        for tuned_prefix, rest in _splits(plain(name)):
            alike = endings.get(rest, [])
            prefixes = [prefix for prefix, shape in alike if same_shape(shape, tuned[name])]
            votes.update((prefix, tuned_prefix) for prefix in prefixes)
            if prefixes:  # the longest common ending decides
                break
    return votes


def _splits(name: str) -> list[tuple[str, str]]:
    """Prefixes without a layer number, shortest first, each with a rest of at least two parts."""
    parts = name.split(".")
    result = []
    for cut in range(len(parts) - 1):
        if cut and parts[cut - 1].isdecimal():
            break
        result.append(("".join(f"{part}." for part in parts[:cut]), ".".join(parts[cut:])))
    return result
