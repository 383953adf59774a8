"""Which tensor of the tuned side is which of the base, where wrappers left different prefixes on the two."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

Shape = tuple[int, ...]

# Parts that wrappers (torch.compile, FSDP, activation checkpointing, PEFT) put between a module and its
# weight.
_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "base_layer"}


@dataclass(frozen=True)
class PrefixRule:
    """Tensors named ``tuned_prefix + rest`` on the tuned side are ``base_prefix + rest`` of the base."""

    base_prefix: str
    tuned_prefix: str
    tensors: int  # matched by it


@dataclass(frozen=True)
class Matching:
    """Base name -> tuned name, and the rules beyond equality that were needed for it."""

    tuned_of: dict[str, str]
    rules: list[PrefixRule] = field(default_factory=list)

    @property
    def base_of(self) -> dict[str, str]:
        """Tuned name -> base name."""
        return {other: name for name, other in self.tuned_of.items()}

    def in_words(self) -> list[str]:
        """Return in words what was matched other than by equal names."""
        return [
            f"'{rule.tuned_prefix}' of tuned for '{rule.base_prefix}' of base: {rule.tensors} tensors"
            for rule in self.rules
        ]


def match_names(base: Mapping[str, Shape], tuned: Mapping[str, Shape]) -> Matching:
    """Match tensors by equal names first, then by the prefixes that account for most of what is left.

    Two names with a common ending of two or more parts vote for the pair of prefixes before it, if their
    shapes are equal and no number is in the prefixes (a layer is never taken for another). The pair with the
    most votes becomes a rule for all names, whatever their shapes, and so on while a rule explains half of
    what either side has under its prefix, and more than a single matrix unless nothing has matched yet.
    """
    tuned_of = {name: name for name in base if name in tuned}
    left_base = [name for name in base if name not in tuned_of]
    left_tuned = [name for name in tuned if name not in tuned_of]
    rules: list[PrefixRule] = []
    while left_base and left_tuned:
        ranked = _votes(left_base, left_tuned, base, tuned).most_common(2)
        # Two equally good rules (a vision and a text tower of one shape) are no ground for choosing.
        if not ranked or (len(ranked) == 2 and ranked[0][1] == ranked[1][1]):
            break
        (base_prefix, tuned_prefix), count = ranked[0]
        base_rests, tuned_rests = _rests(left_base, base_prefix), _rests(left_tuned, tuned_prefix)
        # One matrix beside others that match already is a coincidence of endings: `pooler.dense` is no
        # `classifier.dense`.
        if count < 2 and tuned_of:
            break
        if 2 * count < min(_matrices(base_rests, base), _matrices(tuned_rests, tuned)):
            break
        explained = {name: tuned_rests[rest] for rest, name in base_rests.items() if rest in tuned_rests}
        tuned_of |= explained
        rules.append(PrefixRule(base_prefix, tuned_prefix, len(explained)))
        taken = set(explained.values())
        left_base = [name for name in left_base if name not in explained]
        left_tuned = [name for name in left_tuned if name not in taken]
    return Matching(tuned_of, rules)


def same_shape(first: Shape, second: Shape) -> bool:
    """Return whether two shapes are equal, where -1 stands for a size that is not known."""
    return len(first) == len(second) and all(
        a == b or -1 in (a, b) for a, b in zip(first, second, strict=True)
    )


def plain(name: str) -> str:
    """The name without the parts that wrappers add inside it, and without DataParallel's ``module.``."""
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
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
