"""Interventions in a model in memory whose base stores experts one by one, against whole weights written by hand."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from intruders.experiments.open_dosed import tuned_elsewhere
from intruders.mitigation.live_weights import LiveInterventions
from intruders.mitigation.remedies.shares import Interpolate
from intruders.models.loading import load_model
from tests.checkpoints.models import moved_mixtral, with_lora
from tests.mitigation.hot import assert_share, matrices_of

SHARE = 0.3


@pytest.mark.parametrize("include", ["", "experts.1."], ids=["all matrices", "of one expert"])
def test_a_share_of_experts_stored_one_by_one(include: str, tmp_path: Path) -> None:
    """``W0 + a D`` of every tensor of the cases and of all others, and the model's own weights afterwards."""
    base, tuned, _ = moved_mixtral(tmp_path)
    remedy, matrices = Interpolate(SHARE), matrices_of(base, tuned)
    before = matrices.base
    cases = [case for case in matrices.read([remedy]) if include in case.matrix.name]
    of_cases = {case.matrix.name for case in cases}
    assert of_cases
    others = [name for name in before.names() if name not in of_cases]
    model: Any = load_model(tuned, "causal")
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first: Any = load_model(base, "causal")
    of_base = first.state_dict()
    live = LiveInterventions(model, before, others)
    live.use(cases)
    assert set(live.others) == set(others)
    live.set(remedy, lambda name: SHARE)
    assert_share(model.state_dict(), of_base, own, SHARE)
    norms = [float((tensor.double() - of_base[name].double()).norm()) for name, tensor in own.items()]
    of_both = math.hypot(live.norm_of_others(), *(case.update.norm() for case in cases))
    assert of_both == pytest.approx(math.hypot(*norms), rel=1e-5)
    live.set(Interpolate(0.0), lambda name: 0.0)
    torch.testing.assert_close(model.state_dict(), of_base, rtol=0, atol=0)
    live.set(remedy, lambda name: 1.0)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, own[name])}
    assert any("experts" in name for name in changed)
    assert "model.norm.weight" not in changed
    live.reset()
    torch.testing.assert_close(dict(model.state_dict()), own, rtol=0, atol=0)


def test_a_share_of_an_adapter_on_stacks_of_experts_that_the_base_stores_one_by_one(tmp_path: Path) -> None:
    """``W0 + a D`` with the D of PEFT's merge; no other tensor is taken for a changed one."""
    base, _, _ = moved_mixtral(tmp_path)
    parameters = ["experts.gate_up_proj", "experts.down_proj"]
    adapted = with_lora(load_model(base, "causal"), 2, target_parameters=parameters)
    adapted.save_pretrained(tmp_path / "adapter")
    model: Any = adapted.merge_and_unload()
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    remedy, matrices = Interpolate(SHARE), matrices_of(base, tmp_path / "adapter")
    before, cases = matrices.base, list(matrices.read([remedy]))
    assert len(cases) == 1 + 2 * 3
    assert tuned_elsewhere(model, before, [case.matrix.name for case in cases]) == []
    first: Any = load_model(base, "causal")
    live = LiveInterventions(model, before, before.names())
    live.use(cases)
    live.set(remedy)
    assert_share(model.state_dict(), first.state_dict(), own, SHARE)
    live.reset()
    torch.testing.assert_close(dict(model.state_dict()), own, rtol=0, atol=1e-6)
