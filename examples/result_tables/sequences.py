"""The table of tasks in sequence."""

from typing import Any

from .published_data import finding_of
from .words import lacking_of, markdown


def sequence_verdicts() -> list[str]:
    """Every effect of the sequences with its verdict, the order of most runs first."""
    answers = sorted(finding_of("sequence", "sequence")["answers"], key=_is_second)
    rows = []
    before = ""
    for answer in answers:
        order = "second" if _is_second(answer) else "first"
        where = f"{order}, {answer['where'].split()[-2]} rate"
        is_intruders = answer["what"].startswith("intruders")
        numbers = [f"{answer[name]:+.{2 if is_intruders else 1}f}" for name in ("estimate", "low", "high")]
        what = answer["what"].removesuffix(", alpha = 2r, a rate for each rank")
        rows.append(
            [
                "" if where == before else where,
                f"*{answer['decision']}*{lacking_of(answer)}",
                f"{what}: {numbers[0]} [{numbers[1]}, {numbers[2]}]; {answer['expected']}",
                str(answer["seeds"]),
            ]
        )
        before = where
    return markdown(
        ["order, each method at its", "verdict", "effect (95 % CI); the claim expects", "seeds"], rows
    )


def _is_second(answer: dict[str, Any]) -> bool:
    """Whether an effect is of the order that does not begin with SST-2."""
    return "then sst2" in answer["where"]
