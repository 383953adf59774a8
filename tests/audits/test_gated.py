"""What the gates ask of an audit: a fleet's and a single one's are the same."""

import pytest
import torch

import intruders
from intruders.audits.gated import Gated


@pytest.mark.parametrize("wanted", [True, False])
def test_embeddings_that_one_model_lacks_count_where_they_were_to_be_audited(wanted: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    base = {"fc1.weight": torch.randn(12, 12, generator=generator), "embed_tokens.weight": torch.eye(9, 12)}
    tuned = {"fc1.weight": base["fc1.weight"] + torch.eye(12)}
    alone = Gated.of(intruders.audit(base, tuned, include_embeddings=wanted, cache=False))
    (in_fleet,) = intruders.audit_fleet(base, [tuned], include_embeddings=wanted, cache=False).gated.values()
    assert [skipped.name for skipped in alone.on_one_side] == (["embed_tokens.weight"] if wanted else [])
    assert in_fleet == alone
