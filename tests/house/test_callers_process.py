"""Every public function that loads or takes a model leaves the process that calls it as it was."""

import os
import random
import signal
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import intruders
from intruders.models.loading import load_model
from tests.checkpoints.models import saved, with_lora
from tests.json_lines import write_rows
from tests.tiny import save_llama, short_texts

COLUMNS = {"prompt": "prompt", "completion": "completion", "max_new_tokens": 2}
FEW = intruders.HealSettings(steps=1, max_documents=4, max_tokens=24, max_examples=4, allow=1.0)
LOSSES = {"max_documents": 2, "max_tokens": 24}
FEW_NODES = intruders.AttributionSettings(nodes=5, check=0, **LOSSES)
ALMOST_ALL = intruders.AuditSettings(epsilon=0.99)
ONE_CONTROL = intruders.SweepSettings(scales=(0.0,), controls=("random",))
TWO_REMEDIES = intruders.ComparisonSettings(only=("interpolate", "drop"), strengths=1)


@dataclass
class Caller:
    """What a caller has: folders, two models in memory, of which one is being trained, and data."""

    folder: Path
    base_model: Any
    tuned_model: Any
    calls: int = 0

    def __post_init__(self) -> None:
        self.base, self.tuned = (str(self.folder / name) for name in ("base", "tuned"))
        self.text, self.task, self.other = (self.folder / f"{key}.jsonl" for key in ("text", "task", "other"))

    def new(self) -> Path:
        self.calls += 1
        return self.folder / f"out-{self.calls}"

    def learned_from(self) -> dict[str, Any]:
        columns = intruders.Columns(**COLUMNS)
        return {"loss_on": self.text, "task": self.task, "columns": columns, "settings": FEW}

    def losses(self) -> intruders.LossSettings:
        return intruders.LossSettings(loss_on=(str(self.text),), **LOSSES)

    def scores(self) -> intruders.ScoreSettings:
        return intruders.ScoreSettings(tasks=(str(self.task),), **COLUMNS)

    def config(self) -> intruders.FinetuneConfig:
        return intruders.FinetuneConfig(
            base=self.base, task=str(self.task), out=str(self.new()), steps=1, max_eval_samples=2, **COLUMNS
        )


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Caller:
    folder = tmp_path_factory.mktemp("process")
    base = str(save_llama(folder / "base"))
    model = with_lora(load_model(base, "causal"), task_type="CAUSAL_LM")
    saved(model, folder / "tuned")
    short_texts(folder / "text.jsonl", 6)
    for name, step in (("task", 1), ("other", -1)):
        rows = [{"prompt": f"{number}{step:+}=", "completion": str(number + step)} for number in range(24)]
        write_rows(folder / f"{name}.jsonl", rows)
    return Caller(folder, load_model(base, "causal"), model.train())


CALLS: dict[str, Callable[[Caller], object]] = {
    "audit": lambda at: intruders.audit(at.base_model, at.tuned_model, cache=False),
    "critical_scales": lambda at: intruders.critical_scales(at.base_model, at.tuned_model),
    "mitigate": lambda at: intruders.mitigate(at.base_model, at.tuned_model, scale=0.0, out=at.new()),
    "inspect": lambda at: intruders.inspect(at.base_model),
    "prepare": lambda at: intruders.prepare(at.base, out=at.new()),
    "verify": lambda at: intruders.verify(at.base, at.tuned, at.base_model),
    "audit_fleet": lambda at: intruders.audit_fleet(at.base, [at.tuned], cache=False),
    "inspect_update": lambda at: intruders.inspect_update(at.tuned),
    "evaluate": lambda at: intruders.evaluate(
        Path(at.tuned), base=at.base, losses=at.losses(), scores=at.scores()
    ),
    "heal": lambda at: intruders.heal(at.base, at.tuned, out=at.new(), **at.learned_from()),
    "choose_scale": lambda at: intruders.choose_scale(at.base, at.tuned, **at.learned_from()),
    "write_at_scale": lambda at: intruders.write_at_scale(at.base, at.tuned, 0.5, at.new()),
    "attribute": lambda at: intruders.attribute(at.base, Path(at.tuned), loss_on=at.text, settings=FEW_NODES),
    "intervene": lambda at: intruders.intervene(
        at.base, at.tuned, losses=at.losses(), audit=ALMOST_ALL, sweep=ONE_CONTROL
    ),
    "compare_remedies": lambda at: intruders.compare_remedies(
        at.base, at.tuned, losses=at.losses(), scores=at.scores(), comparison=TWO_REMEDIES
    ),
    "finetune": lambda at: intruders.finetune(at.config()),
    "train_in_sequence": lambda at: intruders.train_in_sequence(at.config(), [str(at.task), str(at.other)]),
}

FAILING: dict[str, Callable[[Caller], object]] = {
    "evaluate": lambda at: intruders.evaluate(at.tuned_model, losses=at.losses()),
    "evaluate, seed": lambda at: intruders.evaluate(at.tuned, losses=at.losses(), seed=1.5),  # type: ignore[arg-type]
    "verify_served": lambda at: intruders.verify_served(
        at.base, at.tuned, endpoint="http://127.0.0.1:9", model="tuned"
    ),
    "heal": lambda at: intruders.heal(at.base_model, at.tuned_model, loss_on=at.text, task=at.task),
    "attribute": lambda at: intruders.attribute(at.base_model, at.tuned_model, loss_on=at.text),
    "intervene": lambda at: intruders.intervene(at.base, at.tuned, losses=at.losses(), seed=-1),
    "write_at_scale": lambda at: intruders.write_at_scale(at.base, at.tuned, "half", at.new()),  # type: ignore[arg-type]
    "finetune": lambda at: intruders.finetune(at.config(), callbacks=[Failing()]),
}


class Failing:
    """A callback of the Trainer that raises at the first step."""

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("on_"):
            raise AttributeError(name)

        def called(*_: object, **__: object) -> None:
            if name == "on_step_begin":
                raise intruders.IntrudersError("the callback failed")

        return called


def state_of(given: Caller) -> dict[str, Any]:
    """Everything that a caller has reason to rely on."""
    parts = {"base": given.base_model, "tuned": given.tuned_model}
    models = {
        name: (
            [module.training for module in model.modules()],
            [(parameter.requires_grad, parameter.grad is None) for parameter in model.parameters()],
            [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
            [parameter.detach().clone() for parameter in model.parameters()],
        )
        for name, model in parts.items()
    }
    _, keys, *rest = np.random.get_state()
    return {
        "random": random.getstate(),
        "numpy": (keys.tolist(), rest),
        "torch": torch.get_rng_state().tolist(),
        "dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "grad": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "interrupt": signal.getsignal(signal.SIGINT),
        "terminate": signal.getsignal(signal.SIGTERM),
        "filters": len(warnings.filters),
        "models": {name: told[:3] for name, told in models.items()},
        "weights": [weights for told in models.values() for weights in told[3]],
    }


def assert_the_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    for old, new in zip(before.pop("weights"), after.pop("weights"), strict=True):
        assert torch.equal(old, new)
    assert [name for name, value in before.items() if value != after[name]] == []


@pytest.fixture(autouse=True)
def draws_of_the_caller() -> None:
    """Seed the generators as no training does, whose seed an earlier test may have left."""
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(7)


@pytest.mark.parametrize("name", CALLS)
def test_after_a_call(name: str, given: Caller) -> None:
    before = state_of(given)
    CALLS[name](given)
    assert_the_same(before, state_of(given))


@pytest.mark.parametrize("name", FAILING)
def test_after_an_error_that_a_person_can_act_on(name: str, given: Caller) -> None:
    before = state_of(given)
    with pytest.raises(intruders.IntrudersError) as error:
        FAILING[name](given)
    assert "\n" not in str(error.value)
    assert_the_same(before, state_of(given))


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16], ids=str)
def test_numbers_do_not_depend_on_the_default_type_or_gradients(given: Caller, default: torch.dtype) -> None:
    def numbers() -> tuple[int, float, float]:
        told = intruders.evaluate(given.tuned, base=given.base, losses=given.losses()).losses[0]
        healing: Any = CALLS["heal"](given)
        return (
            intruders.audit(given.base, given.tuned, cache=False).intruders,
            told.loss.estimate,
            healing.point("healed").corpora[str(given.text)].loss.estimate,
        )

    usual = numbers()
    torch.set_default_dtype(default)
    try:
        with torch.no_grad():
            others = numbers()
        assert torch.get_default_dtype() is default
    finally:
        torch.set_default_dtype(torch.float32)
    assert others == pytest.approx(usual, abs=1e-6)
