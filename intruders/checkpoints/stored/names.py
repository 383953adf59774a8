"""Names of tensors: their order, embeddings, layer and kind, and which of a tuned model's are which of its base's."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

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
    return _CLASSES.search(name) is not None


def is_embedding_or_head(name: str) -> bool:
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
    ends = {tail: [tail[-length:] for length in range(1, len(tail) + 1)] for _, _, tail in split}
    shared = Counter(end for of_tail in ends.values() for end in of_tail)
    kinds = {tail: next((end for end in ends[tail] if shared[end] == 1), tail) for tail in ends}
    return [
        ModulePath(stack=prefix, layer=layer, kind=".".join(kinds[tail])) for prefix, layer, tail in split
    ]


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


Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
_Rule = tuple[str, str]  # prefixes of base and tuned, before which names are alike

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True)
class Matching:
    """Base name -> tuned name, and what beyond equality was needed for it."""

    tuned_of: dict[str, str]
    # Tensors that are named alike but for these prefixes of base and tuned -> how many of them.
    rules: Mapping[_Rule, int] = field(default_factory=dict)
    renamed: int = 0  # tensors matched by the names that transformers gives them in memory

    @property
    def base_of(self) -> dict[str, str]:
        """Tuned name -> base name."""
        return {other: name for name, other in self.tuned_of.items()}

    def named_otherwise(self, base: Shapes, tuned: Shapes) -> list[str]:
        """Return the base's tensors of layers that the other side may have under an unknown name, by shape."""
        matched = set(self.tuned_of.values())
        left = {shape for name, shape in tuned.items() if name not in matched and _NUMBER.search(name)}
        ours = {name: shape for name, shape in base.items() if name not in self.tuned_of}
        return [name for name, shape in ours.items() if shape in left and _NUMBER.search(name)]

    def in_words(self) -> list[str]:
        """Return in words what was matched other than by equal names."""
        words = [
            f"'{tuned}' of tuned for '{base}' of base: {tensors} tensors"
            for (base, tuned), tensors in self.rules.items()
        ]
        if self.renamed:
            words.append(
                f"names in a file for those that transformers gives in memory: {self.renamed} tensors"
            )
        return words


def match_names(base: Shapes, tuned: Shapes) -> Matching:
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
    if len(tuned_of) in (len(base), len(tuned)):
        return Matching(tuned_of)
    left = [_Names({name: name for name in side if name not in tuned_of}, side) for side in (base, tuned)]
    sides = _of_one_family([names.renamed(OF_EVERY_MODEL) for names in left], bool(tuned_of))
    matched, rules = _matched(sides[0].shapes, sides[1].shapes, bool(tuned_of))
    renamed = 0
    for called, other in matched.items():
        name, own = sides[0].names[called], sides[1].names[other]
        tuned_of[name] = own
        renamed += (called, other) != (name, own)
    return Matching(tuned_of, rules, renamed)


@dataclass(frozen=True)
class _Names:
    """The tensors of one side that have no equal on the other, by the names under which they are compared."""

    names: dict[str, str]  # the name under which a tensor is compared -> its own
    side: Shapes  # every tensor of the side, by its own name

    @property
    def shapes(self) -> dict[str, Shape]:
        return {called: self.side[own] for called, own in self.names.items()}

    @property
    def kinds(self) -> dict[str, Shape]:
        """One name for all layers and experts, also ``layers_12``; the shapes say only how many sides a tensor has."""
        return {_DIGITS.sub("0", name): (-1,) * len(shape) for name, shape in self.shapes.items()}

    def renamed(self, renames: Renames) -> "_Names":
        new = in_memory(self.names, renames, self.side)
        return _Names({new[called]: own for called, own in self.names.items()}, self.side)


def _of_one_family(sides: list[_Names], some_match: bool) -> list[_Names]:
    """Both sides under names of the family that lets the most tensors match; one side is renamed at a time."""
    while True:
        kinds = [names.kinds for names in sides]
        best, chosen = len(_matched(kinds[0], kinds[1], False)[0]), None
        if best == min(len(kinds[0]), len(kinds[1])):
            return sides
        for renames, number in product(OF_FAMILIES.values(), (0, 1)):
            new = in_memory(kinds[number], renames)
            if all(name == called for name, called in new.items()):
                continue
            moved = list(kinds)
            moved[number] = {new[name]: shape for name, shape in kinds[number].items()}
            score = len(_matched(moved[0], moved[1], False)[0])
            if score > best:
                best, chosen = score, list(sides)
                chosen[number] = sides[number].renamed(renames)
        if chosen is None:
            return sides
        before, after = _alike(sides, some_match), _alike(chosen, some_match)
        if after[0] <= before[0] or after[1] > before[1]:
            return sides
        sides = chosen


def _alike(sides: list[_Names], some_match: bool) -> tuple[int, int]:
    """Count the tensors of one shape that match, and those of layers that match and have other shapes."""
    ours, theirs = (names.shapes for names in sides)
    matched, _ = _matched(ours, theirs, some_match)
    same = {name for name, other in matched.items() if same_shape(ours[name], theirs[other])}
    return len(same), sum(name not in same and _NUMBER.search(name) is not None for name in matched)


def _matched(base: Shapes, tuned: Shapes, some_match: bool) -> tuple[dict[str, str], dict[_Rule, int]]:
    """Match by equal names and by prefixes; ``some_match`` says whether others of the two models do already."""
    tuned_of = {name: name for name in base if name in tuned}
    ours = {name: shape for name, shape in base.items() if name not in tuned_of}
    theirs = {name: shape for name, shape in tuned.items() if name not in tuned_of}
    rules: dict[_Rule, int] = {}
    while ours and theirs:
        rule, votes = _chosen_rule(ours, theirs)
        if rule is None:
            break
        # One matrix beside others that match already is a coincidence of endings: `pooler.dense` is no
        # `classifier.dense`.
        if votes < 2 and (tuned_of or some_match):
            break
        of_rule = [
            sum(len(side[name]) >= 2 for name in _rests(side, prefix).values())
            for side, prefix in zip((ours, theirs), rule, strict=True)
        ]
        if 2 * votes < min(of_rule):
            break
        explained = _explained(ours, theirs, rule)
        tuned_of |= explained
        rules[rule] = len(explained)
        for name, other in explained.items():
            del ours[name], theirs[other]
    return tuned_of, rules


def _chosen_rule(ours: Shapes, theirs: Shapes) -> tuple[_Rule | None, int]:
    """The pair of prefixes with the most votes, and these; None where equally good ones want the same tensors.

    A vision and a text tower of one shape are no ground for choosing, if both could be the one tower of the other side.
    Two towers on each side are, each with its own counterpart. Single tensors with one vote each are a coincidence.
    """
    # Of matrices: vectors are too similar to tell anything.
    endings: dict[str, list[tuple[str, Shape]]] = {}
    for name, shape in ours.items():
        for prefix, rest in _splits(plain(name)):
            endings.setdefault(rest, []).append((prefix, shape))
    votes: Counter[_Rule] = Counter()
    for name, shape in theirs.items():
        for tuned_prefix, rest in _splits(plain(name)) if len(shape) >= 2 else []:
            prefixes = [prefix for prefix, other in endings.get(rest, []) if same_shape(other, shape)]
            votes.update((prefix, tuned_prefix) for prefix in prefixes)
            if prefixes:  # the longest common ending decides
                break
    most = max(votes.values(), default=0)
    best = [rule for rule, count in votes.items() if count == most]
    if len(best) > 1:
        explained = [_explained(ours, theirs, rule) for rule in best]
        wanted = Counter(name for of_rule in explained for name in of_rule)
        offered = Counter(other for of_rule in explained for other in of_rule.values())
        if most < 2 or max(wanted.values()) > 1 or max(offered.values()) > 1:
            return None, most
    return (best[0] if best else None), most


def _explained(ours: Shapes, theirs: Shapes, rule: _Rule) -> dict[str, str]:
    other_of = _rests(theirs, rule[1])
    return {name: other_of[rest] for rest, name in _rests(ours, rule[0]).items() if rest in other_of}


def same_shape(first: Shape, second: Shape) -> bool:
    """Return whether two shapes are equal, where -1 stands for a size that is not known."""
    return len(first) == len(second) and all(
        a == b or -1 in (a, b) for a, b in zip(first, second, strict=True)
    )


def plain(name: str) -> str:
    """The name without the parts that wrappers add inside it, and without DataParallel's ``module.``."""
    parts = [part for part in name.split(".") if part not in WRAPPERS]
    return ".".join(parts[1:] if len(parts) > 2 and parts[0] == "module" else parts)


def _rests(names: Iterable[str], prefix: str) -> dict[str, str]:
    return {plain(name).removeprefix(prefix): name for name in names if plain(name).startswith(prefix)}


def _splits(name: str) -> list[tuple[str, str]]:
    """Prefixes without a layer number, shortest first, each with a rest of at least two parts."""
    parts = name.split(".")
    result = []
    for cut in range(len(parts) - 1):
        if cut and parts[cut - 1].isdecimal():
            break
        result.append(("".join(f"{part}." for part in parts[:cut]), ".".join(parts[cut:])))
    return result
