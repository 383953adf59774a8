"""The words of verdicts."""

from intruders.measures.intervals import Interval
from intruders_research.claims.shared.words import NOT_MEASURED, points_said


def test_points_that_were_gained_are_not_called_a_cost() -> None:
    assert points_said(Interval(-23.7, -35.9, -11.4)) == "gains +23.7 [+11.4, +35.9] points of task score"
    assert points_said(Interval(4.0, -1.0, 9.0)) == "loses +4.0 [-1.0, +9.0] points of task score"
    assert points_said(NOT_MEASURED) == "has no measured task score"
