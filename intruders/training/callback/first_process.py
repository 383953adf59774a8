"""What the first of several training processes decides, told to all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...errors import IntrudersError, one_line


def decided_by_first(decide: Callable[[], bool], state: Any) -> bool:
    """Return on all processes what ``decide`` answers on the first; each raises if the first does.

    A process without the answer would wait for the others at the next step until the group's timeout.
    """
    from accelerate.utils import broadcast_object_list

    decided, failure = False, None
    if state.is_world_process_zero:
        try:
            decided = decide()
        except Exception as error:
            failure = error
    told = [decided, None if failure is None else one_line(failure)]
    decided, text = broadcast_object_list(told)
    if failure is not None:
        raise failure
    if text is not None:
        raise IntrudersError(f"the audit at step {state.global_step} failed on the first process: {text}")
    return bool(decided)
