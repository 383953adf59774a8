"""What the loss feels of an update's directions, against central differences in double precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from intruders.measures.sensitivities import sensitivities, with_sensitivities
from intruders.mitigation.mitigate import mitigate
from intruders.mitigation.remedies.surgery import Surgery
from intruders.models.loading import load_model
from tests.checkpoints.models import set_factors
from tests.tiny import save_gpt2


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """GPT-2, whose layers compute in the precision of their weights, and a rank-3 adapter of it."""
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("surgery")
    base = save_gpt2(folder / "base")
    targets = ["c_proj", "c_fc"]
    model: Any = get_peft_model(
        load_model(str(base), "causal"),
        LoraConfig(r=3, target_modules=targets, task_type="CAUSAL_LM", fan_in_fan_out=True),
    )
    set_factors(model, 0.3, 1)
    model.save_pretrained(folder / "tuned")
    return base, folder / "tuned"


def weight_of(model: torch.nn.Module, name: str) -> torch.Tensor:
    weight: torch.Tensor = model.get_submodule(name).weight  # type: ignore[assignment]
    return weight


def test_they_are_the_derivatives_of_the_loss(sides: tuple[Path, Path]) -> None:
    model = load_model(str(sides[0]), "causal").double().eval()
    generator = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(2):
        ids = torch.randint(5, 60, (2, 9), generator=generator)
        batches.append({"input_ids": ids, "labels": ids})
    names = ["transformer.h.0.attn.c_proj", "transformer.h.1.mlp.c_proj"]
    directions = {}
    for name in names:
        n, m = weight_of(model, name).shape  # stored with the input first
        sides_of = [torch.linalg.qr(torch.randn(d, 3, generator=generator).double()).Q.mT for d in (m, n)]
        directions[name] = (sides_of[0], sides_of[1])
    found = sensitivities(model, batches, directions, {name: name for name in names})

    @torch.no_grad()
    def loss() -> float:
        # transformers' own loss would take the logits in single precision.
        total = 0.0
        for batch in batches:
            logits = model(input_ids=batch["input_ids"]).logits
            total += float(cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten()))
        return total / len(batches)

    for name, (left, right) in directions.items():
        weight = weight_of(model, name)
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
