"""The command that makes an audit again: the commits that were audited, also of a sum's parts."""

import shlex
from dataclasses import replace

import pytest

from intruders.checkpoints.stored.locate import HubOrigin
from intruders.reports.audit_command import audit_command
from tests.made_up import made_up_audit

A, B = "a" * 40, "b" * 40


def test_the_command_makes_the_audit_again() -> None:
    audit = made_up_audit(1, width=32, tuned="runs/r1")
    command = "intruders audit smollm2-135m runs/r1 --k 10 --epsilon 0.5 --exclude 'lm_head*'"
    assert audit_command(audit) == command
    settings = {"include_embeddings": True, "split_fused": False, "device": "cpu"}
    flagged = replace(audit, base_source="my model", exact=True, settings=settings)
    command = "intruders audit 'my model' runs/r1 --k 10 --epsilon 0.5 --include-embeddings --exact"
    assert audit_command(flagged) == command
    assert audit_command(replace(audit, tuned_kind="module")) is None


ONE, V1 = HubOrigin("org/one", None, A), HubOrigin("org/one", "v1", A)
TWO = HubOrigin("org/two", "v2", B)


@pytest.mark.parametrize(
    ("tuned", "origins", "named"),
    [
        ("org/one", [ONE], f"org/one@{A}"),
        ("org/one@v1", [V1], f"org/one@{A}"),
        ("org/one@0.1", [ONE], f"org/one@{A}@0.1"),  # a weight is no revision
        ("org/one@0.7+org/two@v2@0.3+here", [ONE, TWO], f"org/one@{A}@0.7+org/two@{B}@0.3+here"),
        ("org/one@v1@0.5+org/one@v2", [V1, HubOrigin("org/one", "v2", B)], f"org/one@{A}@0.5+org/one@{B}"),
    ],
)
def test_a_model_of_the_hub_is_named_at_its_commit(tuned: str, origins: list[HubOrigin], named: str) -> None:
    command = audit_command(replace(made_up_audit(1, width=32, base="base", tuned=tuned), tuned_hub=origins))
    assert command is not None
    assert shlex.split(command)[2:4] == ["base", named]
