"""A mitigation as text for a terminal."""

from ..mitigation.mitigation_result import Mitigation


def mitigation_lines(result: Mitigation) -> list[str]:
    scaled = sum(len(matrix.scaled) for matrix in result.matrices)
    lines = [
        f"{result.remedy.sentence}, in {len(result.matrices):,} of {len(result.before.matrices):,} matrices"
    ]
    if result.scale is None:
        lines.append(f"norm of the changed updates: {result.norm_left:.3g} of what it was")
    after = "not counted" if result.after is None else f"{result.after.intruders:,}"
    lines.append(f"intruders before {result.before.intruders:,}, after {after}")
    short = result.wanted - scaled
    if short > 0:
        lines.append(
            f"{short:,} intruders had no such vector among the {result.before.k} examined of their matrix"
        )
    missing = sum(not matrix.exists for matrix in result.matrices)
    if missing:
        lines.append(f"{missing:,} matrices have no such control and stay as they were")
    ranks = [matrix.rank_after for matrix in result.matrices if matrix.rank_after is not None]
    if ranks:
        ends = dict.fromkeys([min(ranks), max(ranks)])
        lines.append(f"ranks of the changed updates: {' to '.join(map(str, ends))}")
    if result.rank is not None:
        lines.append(f"largest relative error of an update from cutting its rank: {result.largest_error:.2g}")
    return lines
