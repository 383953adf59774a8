"""Which matrices a number of intruders leaves out: over a part of a model it is a lower bound, and passes no limit."""

from __future__ import annotations

from collections.abc import Sequence

from ...checkpoints.pairing.pairing import SkipKind, Skipped
from ...checkpoints.stored.names import module_paths
from ...checkpoints.stored.selection import Selection
from ...system.words import plural
from .audit_result import Audit
from .summary import not_compared

ON_ONE_SIDE = (SkipKind.NO_COUNTERPART, SkipKind.OTHER_SHAPE)


def matrices_on_one_side(
    audited: Sequence[str], left_out: Sequence[Skipped], selection: Selection
) -> list[Skipped]:
    """Return the matrices that one of two models lacks, or has in another shape, though an audit would examine them.

    Heads, poolers and embeddings, which are outside the numbered layers, do not count: a model for another task has
    its own. Of tensors that the base lacks, only those of a kind that is compared in other layers are matrices to
    examine, and of those that the tuned model lacks also every weight; norms, biases and buffers are of neither.

    Args:
      audited: names of the matrices that differ.
      left_out: the other tensors, with reasons.
      selection: what was to be audited.
    """
    open_ones = [skipped for skipped in left_out if skipped.kind in ON_ONE_SIDE]
    compared = [*audited, *(skipped.name for skipped in left_out if skipped.kind == SkipKind.UNCHANGED)]
    paths = module_paths([*compared, *(skipped.name for skipped in open_ones)])
    kinds = {path.kind for path in paths[: len(compared)]}
    has_layers = any(path.layer is not None for path in paths[: len(compared)])
    return [
        skipped
        for skipped, path in zip(open_ones, paths[len(compared) :], strict=True)
        if (path.layer is not None or not has_layers)
        and (path.kind in kinds or (skipped.reason != "missing in base" and "weight" in skipped.name))
        and not skipped.name.endswith("bias")  # as the causal masks that old files of GPT-2 name attn.bias
        and selection.reason_to_leave_out(skipped.name) is None
    ]


def why_left_open(audit: Audit, limit: int) -> str | None:
    """Return why the number of intruders does not tell whether a model keeps to a limit; None where it does."""
    nothing = not_compared(audit.matrices, audit.skipped)
    if nothing is not None:
        return f"no matrix could be compared; {nothing.name}: {nothing.reason}"
    if audit.intruders > limit:
        return None
    selection = Selection(
        include=tuple(audit.settings.get("include", ())), exclude=tuple(audit.settings.get("exclude", ()))
    )
    return in_words(
        matrices_on_one_side([matrix.name for matrix in audit.matrices], audit.skipped, selection)
    )


def in_words(left_open: Sequence[Skipped]) -> str | None:
    """Return what to tell of matrices that could not be compared; None of no matrix."""
    if not left_open:
        return None
    first = left_open[0]
    return (
        f"{plural(len(left_open), 'matrix', 'matrices')} could not be compared, the first '{first.name}' "
        f"({first.reason}); leave out what is meant to be absent with --exclude"
    )


def not_finite_in_words(matrices: int) -> str:
    """Return what to tell of matrices that were left out because the caller wanted it so."""
    return f"{plural(matrices, 'matrix', 'matrices')} with NaN or infinity left out of the count (--skip-non-finite)"


def matrices_not_finite(audit: Audit) -> int:
    """Count the matrices that were left out for NaN or infinity."""
    return sum(skipped.kind == SkipKind.NOT_FINITE for skipped in audit.skipped)


def unchanged_in_words(base: str, tuned: str) -> str:
    """Return what to tell of a model that equals its base in every matrix that was to be audited."""
    return f"nothing differs between '{base}' and '{tuned}'; check that the paths are the intended ones"
