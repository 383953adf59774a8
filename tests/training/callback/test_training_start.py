"""A script that is resumed makes its model anew: what its audits count from is compared with the first start."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Trainer

from intruders.errors import SettingError
from intruders.models.loading import load_model
from intruders.training.callback.callback import IntruderCallback
from intruders.training.callback.trace import read_trace
from tests.training.callback.trainers import tiny_trainer

HEAD = "model.layers.0.mlp.down_proj.weight"


def _model(llama: Path, method: str, head_seed: int, adapter_seed: int) -> Any:
    """A model of which one matrix is drawn when it is made, as transformers draws a classifier's head."""
    model = load_model(str(llama), "causal")
    torch.manual_seed(head_seed)
    torch.nn.init.normal_(model.get_parameter(HEAD), std=0.02)
    if method == "full":
        return model
    torch.manual_seed(adapter_seed)
    config = LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj"], modules_to_save=["0.mlp.down_proj"])
    return get_peft_model(model, config)


def _trainer(model: Any, out: Path, steps: int) -> Any:
    callback = IntruderCallback(every=2)
    settings = {"max_steps": steps, "save_strategy": "steps", "save_steps": 2}
    return tiny_trainer(model, out, kind=partial(Trainer, callbacks=[callback]), **settings)


def _factors(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().double().clone() for name, p in model.named_parameters() if "lora_A" in name}


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_matrix_that_a_resumed_script_draws_anew_is_not_counted_from(
    method: str, llama: Path, tmp_path: Path
) -> None:
    _trainer(_model(llama, method, 1, 1), tmp_path, 2).train()
    named = HEAD.replace(".", r"\.")
    with pytest.raises(SettingError, match=rf"began with \('{named}'.*pass base="):
        _trainer(_model(llama, method, 2, 1), tmp_path, 4).train(resume_from_checkpoint=True)


def test_the_same_start_is_counted_from(llama: Path, tmp_path: Path) -> None:
    first = _model(llama, "lora", 1, 1)
    before, head = _factors(first), first.get_submodule("base_model.model").get_parameter(
        HEAD.replace(".weight", ".original_module.weight")
    ).detach().clone()  # fmt: skip
    _trainer(first, tmp_path, 2).train()
    model = _model(llama, "lora", 1, 1)
    trainer = _trainer(model, tmp_path, 4)
    trainer.train(resume_from_checkpoint=True)
    trace = read_trace(tmp_path / "intruders.parquet")
    last = trace[trace["step"] == 4]
    after = _factors(model)
    moved = {name: float((after[name] - before[name]).norm() / before[name].norm()) for name in before}
    assert sorted(last["a_movement"].dropna().unique()) == pytest.approx(sorted(moved.values()), rel=1e-6)
    trained = next(p for name, p in model.named_parameters() if "down_proj.modules_to_save" in name)
    x = torch.linalg.svd(head.double(), full_matrices=False)[0]
    y = torch.linalg.svd(trained.detach().double(), full_matrices=False)[0][:, :10]
    assert last[last["name"] == HEAD]["intruder"].sum() == int(((x.T @ y).abs().amax(dim=0) < 0.5).sum())


@pytest.mark.parametrize("is_recorded", [True, False])
def test_of_another_start_of_a_no_movement_is_told(is_recorded: bool, llama: Path, tmp_path: Path) -> None:
    _trainer(_model(llama, "lora", 1, 1), tmp_path, 2).train()
    record = tmp_path / "intruders-start.json"
    assert HEAD in json.loads(record.read_text())["matrices"]
    trainer = _trainer(_model(llama, "lora", 1, 2), tmp_path, 4)
    if is_recorded:
        with pytest.warns(UserWarning, match="factors A of the LoRA are not those.*a_movement is left out"):
            trainer.train(resume_from_checkpoint=True)
    else:
        record.unlink()
        trainer.train(resume_from_checkpoint=True)
    logged = [entry for entry in trainer.state.log_history if "intruders/total" in entry]
    assert [("intruders/a_movement" in entry) for entry in logged] == [True, not is_recorded]
