"""What the loss feels of an update's directions, against central differences in double precision."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from intruders.measures.sensitivities import sensitivities, with_sensitivities
from intruders.mitigation.mitigate import mitigate
from intruders.mitigation.remedies.surgery import Surgery
from intruders.models.loading import load_model
from tests.checkpoints.models import with_lora
from tests.tiny import save_gpt2


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """GPT-2, whose layers compute in the precision of their weights, and a rank-3 adapter of it."""
    folder = tmp_path_factory.mktemp("surgery")
    base = save_gpt2(folder / "base")
    given = {"r": 3, "target_modules": ["c_proj", "c_fc"], "task_type": "CAUSAL_LM", "fan_in_fan_out": True}
    with_lora(load_model(str(base), "causal"), **given).save_pretrained(folder / "tuned")
    return base, folder / "tuned"


def test_they_are_the_derivatives_of_the_loss(sides: tuple[Path, Path]) -> None:
    model = load_model(str(sides[0]), "causal").double().eval()
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


def test_surgery_by_a_task_is_written(sides: tuple[Path, Path], tmp_path: Path) -> None:
    base, tuned = (str(side) for side in sides)
    fitted = with_sensitivities(Surgery(task="word-problems", examples=6), base, tuned)
    assert {name.split(".", 2)[-1] for name in fitted.sensitivities} >= {"0.attn.c_proj.weight"}
    assert all(len(felt) == 3 and any(felt) for felt in fitted.sensitivities.values())
    result = mitigate(base, tuned, remedy=fitted, out=tmp_path / "out", check=False)
    changed = {matrix.name for matrix in result.matrices}
    assert len(changed) == 4
    assert all("c_proj" in name for name in changed)
    assert result.remedy.settings["task"] == "word-problems"
