"""Kinds of skipped tensors: kept with an audit, and told from the reasons in files of earlier versions."""

from __future__ import annotations

import dataclasses

import pytest

from intruders.audits.result.audit_result import Audit
from intruders.checkpoints.pairing.pairing import SkipKind, Skipped
from intruders.errors import BrokenDocumentError
from tests.made_up import made_up_audit

KINDS = {
    "unchanged": SkipKind.UNCHANGED,
    "NaN or infinity in the base": SkipKind.NOT_FINITE,
    "other shape: (2, 3) and (3, 3)": SkipKind.OTHER_SHAPE,
    "missing in tuned": SkipKind.NO_COUNTERPART,
    "one-dimensional": SkipKind.OTHER,
}


def test_kinds_are_kept_with_the_audit() -> None:
    skipped = [Skipped("a", "in words that say nothing of it", kind) for kind in SkipKind]
    audit = dataclasses.replace(made_up_audit(1), skipped=skipped)
    assert Audit.from_document(audit.to_document()).skipped == skipped


def test_an_audit_of_an_earlier_version_has_the_kinds_of_its_reasons() -> None:
    document = made_up_audit(1).to_document()
    document["skipped"] = [{"name": "a", "reason": reason} for reason in KINDS]
    assert [one.kind for one in Audit.from_document(document).skipped] == list(KINDS.values())


def test_a_kind_that_is_none_is_refused() -> None:
    document = made_up_audit(1).to_document()
    document["skipped"] = [{"name": "a", "reason": "unchanged", "kind": "other things"}]
    with pytest.raises(BrokenDocumentError, match="kind 'other things'; expected one of unchanged"):
        Audit.from_document(document)
