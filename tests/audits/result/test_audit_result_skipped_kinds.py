"""Kinds of skipped tensors: kept with an audit."""

from __future__ import annotations

import dataclasses

import pytest

from intruders.audits.result.audit_result import Audit
from intruders.checkpoints.pairing.pairing import SkipKind, Skipped
from intruders.errors import BrokenDocumentError
from tests.made_up import made_up_audit


def test_kinds_are_kept_with_the_audit() -> None:
    skipped = [Skipped("a", "in words that say nothing of it", kind) for kind in SkipKind]
    audit = dataclasses.replace(made_up_audit(1), skipped=skipped)
    assert Audit.from_document(audit.to_document()).skipped == skipped


def test_a_kind_that_is_none_is_refused() -> None:
    document = made_up_audit(1).to_document()
    document["skipped"] = [{"name": "a", "reason": "unchanged", "kind": "other things"}]
    with pytest.raises(BrokenDocumentError, match="kind 'other things'; expected one of unchanged"):
        Audit.from_document(document)
