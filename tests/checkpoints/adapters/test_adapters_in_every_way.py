"""Every PEFT method that is read, from every start, given in every way, against PEFT's own merged weights.

The lists are METHODS below, and STARTS, WAYS and CALLBACKS in ``adapted``. Each combination is a test: which matrices
changed, the size of each update, and each matrix's count of intruders against two full decompositions in double
precision. What cannot exist (a conversion that PEFT does not make) is left out by ``does_not_exist``; what cannot be
known (a folder whose base was changed and is elsewhere) must be refused, which ``is_refused`` says. Plain LoRA is given
from every start in every way, DoRA from one start of each kind, and the other scales from the usual one; what is left
writes the same kinds of files and is given in one way each, in turn, the callbacks being one of these. ``-m slow`` runs
these.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints.adapted import (
    LORA,
    STARTS,
    WAYS,
    Adapted,
    adapt,
    does_not_exist,
    require_right_audit,
    require_right_callbacks,
)

# One of each way of making a weight; ``test_by_peft`` has every type from a folder and in memory.
IN_EVERY_WAY = ("loha", "lokr", "adalora", "vera", "ia3", "oft", "unilora")
METHODS: list[tuple[str, str, bool | str]] = [
    *(("llama", method, start) for method in LORA for start in STARTS if not does_not_exist(method, start)),
    *(("llama", method, True) for method in IN_EVERY_WAY),
    *(
        ("gpt2", method, start)
        for method in ("lora", "dora")
        for start in (True, "pissa", "corda", "lora_ga")
    ),
]


def is_like_another(case: tuple[str, str, bool | str]) -> bool:
    """From a start of which another of its kind is looked at, with another scale or kind of layer than in all ways."""
    kind, method, start = case
    if method not in LORA or start is True or (kind, method) == ("llama", "lora"):
        return False
    return (kind, method) != ("llama", "dora") or start not in ("pissa", "lora_ga")


def parameters(case: tuple[str, str, bool | str], *others: str) -> Any:
    """One combination as a test, left out of the plain suite where another is much like it."""
    marks = [pytest.mark.slow] if is_like_another(case) else []
    return pytest.param(case, *others, marks=marks, id="-".join(map(str, (*case, *others))))


BY_CALLBACKS = "callbacks"


def ways(case: tuple[str, str, bool | str]) -> list[str]:
    """Every way of giving it that exists, or one of them."""
    existing = [way for way in [*WAYS, BY_CALLBACKS] if not does_not_exist(*case[1:], way)]
    if is_like_another(case):
        return [existing[METHODS.index(case) % len(existing)]]
    return existing


@pytest.fixture(scope="module")
def adapted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Adapted, Path]:
    """One trained model serves all ways: none of them changes it."""
    kind, method, start = request.param
    folder = tmp_path_factory.mktemp("adapted")
    return kind, adapt(kind, method, start, folder), folder


@pytest.mark.parametrize(
    ("adapted", "way"),
    [parameters(case, way) for case in METHODS for way in ways(case) if way != BY_CALLBACKS],
    indirect=["adapted"],
)
def test_audit_is_that_of_what_peft_merges(adapted: tuple[str, Adapted, Path], way: str) -> None:
    kind, model, folder = adapted
    require_right_audit(kind, model, way, folder)


@pytest.mark.parametrize("case", [parameters(case) for case in METHODS if BY_CALLBACKS in ways(case)])
def test_callbacks_find_what_peft_merges(case: tuple[str, str, bool | str], tmp_path: Path) -> None:
    kind, method, start = case
    require_right_callbacks(kind, adapt(kind, method, start, tmp_path, train=False), tmp_path)
