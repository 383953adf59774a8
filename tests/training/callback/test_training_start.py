"""A script that is resumed makes its model anew: what its audits count from is compared with the first start."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch._dynamo.eval_frame import OptimizedModule

from intruders.errors import SettingError
from intruders.models.loading import load_model
from intruders.training.callback.callback import IntruderCallback
from intruders.training.callback.trace import read_trace
from intruders.training.callback.training_start import StartOfA
from intruders.training.finetune import finetune
from tests.checkpoints.models import tiny_llama
from tests.training.callback.trainers import intruders_of, logged, tiny_trainer
from tests.training.tiny_runs import Interrupt, config_of, when

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
    return tiny_trainer(model, out, callbacks=[callback], **settings)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_matrix_that_is_drawn_anew_is_not_counted_from(method: str, llama: Path, tmp_path: Path) -> None:
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
    assert last[last["name"] == HEAD]["intruder"].sum() == intruders_of(head, trained.detach())
    movement = logged(trainer)[-1]["intruders/a_movement"]
    assert movement == pytest.approx(_movement(before, after), rel=1e-6)
    assert movement > 0.01, "the case shows something"


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
    assert [("intruders/a_movement" in entry) for entry in logged(trainer)] == [True, not is_recorded]


def _factors(model: Any) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix("base_model.model.").replace(".lora_A.default", ""): p.detach().double().clone()
        for name, p in model.named_parameters()
        if "lora_A" in name
    }


def _movement(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> float:
    moved = sum(float((after[name] - before[name]).square().sum()) for name in before)
    return float((moved / sum(float(tensor.square().sum()) for tensor in before.values())) ** 0.5)


def test_an_adapter_that_is_not_active_has_no_part_in_it() -> None:
    """Its A does not move: it would hide the movement of a matrix, and shrink that of all."""
    modules = ["q_proj", "v_proj", "embed_tokens"]  # the A of an embedding has another name
    model: Any = get_peft_model(tiny_llama(), LoraConfig(r=2, target_modules=modules))
    model.add_adapter("other", LoraConfig(r=4, target_modules=["q_proj"]))
    embedding = model.base_model.model.model.embed_tokens
    torch.nn.init.ones_(embedding.lora_embedding_A["default"])  # PEFT makes it zero
    start = StartOfA.of(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "A.default" in name:
                parameter.mul_(1.5)
    moved, by_matrix = start.movement(dict(model.named_parameters()))
    assert moved == pytest.approx(0.5)
    assert list(by_matrix.values()) == pytest.approx([0.5] * 5)
    compiled = OptimizedModule(model, lambda function: function)
    now = dict(compiled.named_parameters())
    assert start.movement(now)[1] == by_matrix
    assert StartOfA.of(compiled).movement(now)[1].keys() == by_matrix.keys()


def test_two_active_adapters_of_a_matrix_count_together() -> None:
    model: Any = get_peft_model(tiny_llama(), LoraConfig(r=2, target_modules=["q_proj"]))
    model.add_adapter("other", LoraConfig(r=4, target_modules=["q_proj"]))
    model.base_model.set_adapter(["default", "other"])
    start = StartOfA.of(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if "layers.0" in name}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_A.other" in name:
                parameter.mul_(3)
    sizes = {name: float(p.double().square().sum()) for name, p in before.items() if "lora_A" in name}
    moved = sum(4 * size for name, size in sizes.items() if ".other" in name)
    of_first = start.movement(dict(model.named_parameters()))[1]["model.layers.0.self_attn.q_proj.weight"]
    assert of_first == pytest.approx((moved / sum(sizes.values())) ** 0.5)


@pytest.mark.parametrize("method", ["lora", "b-only", "full"])
def test_a_run_records_it_also_after_a_kill(method: str, llama: Path, tmp_path: Path) -> None:
    before: dict[str, torch.Tensor] = {}
    after: dict[str, torch.Tensor] = {}
    watch = [
        when("train_begin", lambda state, model: state.global_step or before.update(_factors(model))),
        when("train_end", lambda state, model: after.update(_factors(model))),
    ]
    config = config_of(llama, tmp_path / "run", method=method, steps=4, max_eval_samples=1)
    with pytest.raises(KeyboardInterrupt):
        finetune(config, [*watch, Interrupt()])
    recorded = finetune(config, watch).record["a_movement"]
    if method == "full":
        assert recorded is None
        return
    assert recorded == pytest.approx(_movement(before, after), rel=1e-6)
    assert (recorded == 0) == (method == "b-only")
