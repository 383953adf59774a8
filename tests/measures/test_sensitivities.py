"""What the loss feels of an update's directions, against central differences in double precision."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from intruders.measures.sensitivities import sensitivities
from intruders.models.loading import load_model
from tests.tiny import save_gpt2


def test_they_are_the_derivatives_of_the_loss(tmp_path: Path) -> None:
    """Of GPT-2, whose layers compute in the precision of their weights."""
    model = load_model(str(save_gpt2(tmp_path)), "causal").double().eval()
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(5, 60, (2, 9), generator=generator) for _ in range(2)]
    batches = [{"input_ids": ids, "labels": ids} for ids in texts]
    names = ["transformer.h.0.attn.c_proj", "transformer.h.1.mlp.c_proj"]
    directions = {}
    for name in names:
        n, m = model.get_submodule(name).weight.shape  # stored with the input first
        drawn = (torch.randn(side, 3, generator=generator).double() for side in (m, n))
        directions[name] = tuple(torch.linalg.qr(matrix).Q.mT for matrix in drawn)
    found = sensitivities(model, batches, directions, {name: name for name in names})

    @torch.no_grad()
    def loss() -> float:
        # transformers' own loss would take the logits in single precision.
        logits = [model(input_ids=ids).logits[:, :-1].flatten(0, 1) for ids in texts]
        losses = [cross_entropy(one, ids[:, 1:].flatten()) for one, ids in zip(logits, texts, strict=True)]
        return float(sum(losses)) / len(losses)

    for name, (left, right) in directions.items():
        weight = model.get_submodule(name).weight
        for i in range(3):
            term = torch.outer(right[i], left[i])
            at = []
            for step in (1e-4, -1e-4):
                weight.data += step * term
                at.append(loss())
                weight.data -= step * term
            assert float(found[name][i]) == pytest.approx((at[0] - at[1]) / 2e-4, rel=1e-5, abs=1e-10)
