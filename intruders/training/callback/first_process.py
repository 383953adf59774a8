"""What the first of several training processes decides, told to all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ...errors import IntrudersError, first_line

Decision = TypeVar("Decision")


def decided_by_first(decide: Callable[[], Decision], state: Any) -> Decision:
    """Return on all processes what ``decide`` answers on the first; each raises if the first does.

    A process without the answer would wait for the others at the next step until the group's timeout.
    """
    from accelerate.utils import broadcast_object_list

    decided: Decision | None = None
    failure: Exception | None = None
    if state.is_world_process_zero:
        try:
            decided = decide()
        except Exception as error:
            failure = error
    told: list[Any] = [decided, None if failure is None else first_line(failure)]
    answer, text = broadcast_object_list(told)
    if failure is not None:
        raise failure
    if text is not None:
        raise IntrudersError(f"the audit at step {state.global_step} failed on the first process: {text}")
    decision: Decision = answer
    return decision
