"""The command that makes an audit again: the commits that were audited, also of a sum's parts."""

from __future__ import annotations

import shlex
from dataclasses import replace

from intruders.checkpoints.stored.locate import HubOrigin
from intruders.reports.audit_command import audit_command
from tests.made_up import made_up_audit

A, B = "a" * 40, "b" * 40


def models_of(tuned: str, *origins: HubOrigin) -> list[str]:
    audit = replace(made_up_audit(1, width=32, base="base", tuned=tuned), tuned_hub=origins)
    command = audit_command(audit)
    assert command is not None
    return shlex.split(command)[2:4]


def test_the_command_makes_the_audit_again() -> None:
    audit = made_up_audit(1, width=32, tuned="runs/r1")
    command = "intruders audit smollm2-135m runs/r1 --k 10 --epsilon 0.5 --exclude 'lm_head*'"
    assert audit_command(audit) == command
    settings = {"include_embeddings": True, "split_fused": False, "device": "cpu"}
    flagged = replace(audit, base_source="my model", exact=True, settings=settings)
    command = "intruders audit 'my model' runs/r1 --k 10 --epsilon 0.5 --include-embeddings --exact"
    assert audit_command(flagged) == command
    assert audit_command(replace(audit, tuned_kind="module")) is None


def test_a_model_of_the_hub_is_named_at_its_commit() -> None:
    assert models_of("org/name", HubOrigin("org/name", None, A)) == ["base", f"org/name@{A}"]
    assert models_of("org/name@v1", HubOrigin("org/name", "v1", A)) == ["base", f"org/name@{A}"]


def test_a_weight_is_no_revision() -> None:
    assert models_of("org/name@0.1", HubOrigin("org/name", None, A)) == ["base", f"org/name@{A}@0.1"]


def test_every_part_of_a_sum_is_named_at_its_commit() -> None:
    origins = (HubOrigin("org/one", None, A), HubOrigin("org/two", "v2", B))
    assert models_of("org/one@0.7+org/two@v2@0.3+here", *origins) == [
        "base",
        f"org/one@{A}@0.7+org/two@{B}@0.3+here",
    ]
    twice = (HubOrigin("org/one", "v1", A), HubOrigin("org/one", "v2", B))
    assert models_of("org/one@v1@0.5+org/one@v2", *twice) == ["base", f"org/one@{A}@0.5+org/one@{B}"]
