"""Which tensor of the tuned side is which of the base, where the two have other names for the same tensor."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import dataclass, field

from .names import WRAPPERS
from .renamed import OF_EVERY_MODEL, OF_FAMILIES, Renames, in_memory

Shape = tuple[int, ...]

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
_DIGITS = re.compile(r"\d+")  # also those of ``layers_12``


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
        """One name for all layers and experts; the shapes say only how many sides a tensor has."""
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
    """Base name -> tuned name, for what a pair of prefixes matches."""
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
    """Map what follows the prefix to the name, for the names that have it."""
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
