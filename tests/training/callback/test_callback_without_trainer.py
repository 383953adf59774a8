"""The callback as tools that name no Trainer make it: the model and the reporters are found in the events."""

import json
import pickle
import sys
import warnings
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainerCallback

from intruders.audits.audit_settings import AuditSettings
from intruders.audits.result.audit_result import Audit
from intruders.audits.result.summary import update_norm
from intruders.errors import SettingError
from intruders.models.loading import load_model
from intruders.training.callback.callback import IntruderCallback
from intruders.training.callback.trace import read_trace
from tests.training.callback.trainers import (
    all_weights,
    by_definition,
    counts_of,
    intruders_of,
    logged,
    prepared,
    tiny_trainer,
)
from tests.training.tiny_runs import when


def _trainer(callback: IntruderCallback, model: Any, out: Path, **settings: Any) -> Any:
    """A Trainer that is given the callback when it is made."""
    return tiny_trainer(model, out, callbacks=[callback], **settings)


def _last(callback: IntruderCallback, model: Any, out: Path, **settings: Any) -> Audit:
    """The last audit of a training that is given the callback when its Trainer is made."""
    _trainer(callback, model, out, **settings).train()
    return callback.last


def _unfrozen_beneath(llama: Path, init: bool | str) -> Any:
    """Two matrices trained in full, one beneath an adapter and one beside it, as people do with requires_grad_."""
    config = LoraConfig(
        r=2, lora_alpha=8, target_modules=["q_proj", "v_proj"], init_lora_weights=init, task_type="CAUSAL_LM"
    )
    model = get_peft_model(load_model(str(llama), "causal"), config)
    for name, parameter in model.named_parameters():
        if "up_proj" in name or "q_proj.base_layer" in name:
            parameter.requires_grad_(True)
    return model


@pytest.mark.parametrize("init", [True, "pissa"])
def test_weights_unfrozen_under_an_adapter_are_audited(init: bool | str, llama: Path, tmp_path: Path) -> None:
    model = _unfrozen_beneath(llama, init)
    last = _last(IntruderCallback(every=4), model, tmp_path)
    found = {matrix.name: matrix.intruders for matrix in last.matrices}
    assert {name.split(".")[-2] for name in found} == {"q_proj", "v_proj", "up_proj"}
    assert sum(count for name, count in found.items() if "up_proj" in name) > 0, "the case shows something"
    before, merged = all_weights(load_model(str(llama), "causal")), all_weights(model)
    norm = sum(float((merged[name] - before[name]).double().square().sum()) for name in found)
    assert update_norm(last.matrices) == pytest.approx(norm**0.5, rel=1e-4)
    assert last.intruders == sum(by_definition(before, merged).values())


@pytest.mark.parametrize("with_embeddings", [True, False])
def test_unfrozen_embeddings_are_audited_if_asked_for(
    with_embeddings: bool, llama: Path, tmp_path: Path
) -> None:
    config = LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(load_model(str(llama), "causal"), config)
    for name, parameter in model.named_parameters():
        if "embed_tokens" in name or "norm" in name:
            parameter.requires_grad_(True)
    callback = IntruderCallback(every=4, settings=AuditSettings(include_embeddings=with_embeddings))
    found = {matrix.name: matrix for matrix in _last(callback, model, tmp_path).matrices}
    assert ("model.embed_tokens.weight" in found) == with_embeddings
    # The adapter's own matrices are factors where no weight that is audited was trained beneath it.
    kinds = {"q_proj", "embed_tokens"} if with_embeddings else {"q_proj"}
    assert {name.split(".")[-2] for name in found} == kinds
    before, merged = all_weights(load_model(str(llama), "causal")), all_weights(model)
    for name, matrix in found.items():
        norm = float((merged[name] - before[name]).double().norm())
        assert matrix.update.frobenius == pytest.approx(norm, rel=1e-4)


def test_weights_unfrozen_under_an_adapter_need_the_base_to_resume(llama: Path, tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 2}
    _trainer(IntruderCallback(every=2), _unfrozen_beneath(llama, True), tmp_path, **saving).train()
    started = json.loads((tmp_path / "intruders-start.json").read_text())["matrices"]
    assert {name.split(".")[-2] for name in started} == {"q_proj", "up_proj"}
    trainer = tiny_trainer(_unfrozen_beneath(llama, True), tmp_path)
    trainer.add_callback(IntruderCallback(every=4))
    with pytest.raises(SettingError, match=r"those of a resumed training.*pass base= with"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def unfreeze(state: Any, model: Any) -> None:
    """Gradual unfreezing: from the third step on, the up projections are trained too."""
    for name, parameter in model.named_parameters() if state.global_step == 2 else ():
        if "up_proj" in name:
            parameter.requires_grad_(True)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_what_is_unfrozen_later_is_told_and_counted(method: str, llama: Path, tmp_path: Path) -> None:
    def trained(callback: IntruderCallback) -> Any:
        model = load_model(str(llama), "causal")
        if method == "lora":
            config = LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj"], task_type="CAUSAL_LM")
            model = get_peft_model(model, config)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("lora_" in name or (method == "full" and "down_proj" in name))
        trainer = tiny_trainer(model, tmp_path, callbacks=[when("step_begin", unfreeze), callback])
        later = [parameter for name, parameter in model.named_parameters() if "up_proj" in name]
        trainer.create_optimizer()
        trainer.optimizer.add_param_group({"params": later})
        trainer.train()
        assert callback.last is not None
        return model

    own = IntruderCallback(every=1, trace=False)
    given = IntruderCallback(every=4, base=str(llama), trace=False)
    with pytest.warns(UserWarning, match=r"unfrozen since.*up_proj.*pass base=") as told:
        trained(own)
    assert sum("unfrozen since" in str(each.message) for each in told) == 1, "and not at each audit"
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*unfrozen since")
        model = trained(given)
    assert own.last.intruders < given.last.intruders == sum(counts_of(llama, model).values())


@pytest.mark.parametrize("with_trainer", [False, True])
def test_totals_and_losses_are_reported(
    with_trainer: bool, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def made(out: str, **reporting: Any) -> Any:
        torch.manual_seed(0)  # the factors of LoRA start at random
        settings = {"max_steps": 5, "logging_steps": 1, **reporting}
        return tiny_trainer(prepared(llama, "lora"), tmp_path / out, **settings)

    def losses(trainer: Any) -> dict[int, float]:
        return {entry["step"]: entry["loss"] for entry in logged(trainer, "loss")}

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    plain, trainer = made("plain"), made("out", report_to="tensorboard")
    at_close: list[int] = []  # of trackers; trackio starts another run for what is logged after that
    close = when("train_end", lambda *told: at_close.extend(entry["step"] for entry in logged(trainer)))
    given: dict[str, Any] = {"trainer": trainer, "trace": False} if with_trainer else {"trace": None}
    for callback in (close, IntruderCallback(every=2, **given)):
        trainer.add_callback(callback)
    plain.train()
    trainer.train()
    assert losses(trainer) == losses(plain)
    totals = logged(trainer)
    assert at_close == [entry["step"] for entry in totals] == [2, 4, 5], "the last is that of the last step"
    assert totals[0]["epoch"] == 0.5
    events = EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    tags = events.Tags()["scalars"]
    total = next(tag for tag in tags if tag.endswith("intruders/total"))
    loss = next(tag for tag in tags if tag.endswith("/loss"))
    assert [event.step for event in events.Scalars(total)] == [2, 4, 5]
    assert [event.value for event in events.Scalars(total)] == [e["intruders/total"] for e in totals]
    assert [event.step for event in events.Scalars(loss)] == [1, 2, 3, 4, 5]
    assert not (tmp_path / "out" / "intruders.parquet").exists()


class EndAtThree(TrainerCallback):  # type: ignore[misc]
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step == 3


@pytest.mark.parametrize("method", ["full", "pissa", "lora"])
def test_a_resumed_training_whose_base_is_gone_needs_it(method: str, llama: Path, tmp_path: Path) -> None:
    tiny_trainer(prepared(llama, method), tmp_path, save_strategy="steps", save_steps=2).train()

    def resumed(callback: IntruderCallback) -> IntruderCallback:
        trainer = tiny_trainer(prepared(llama, method), tmp_path, save_strategy="no")
        trainer.add_callback(callback)
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
        return callback

    told = resumed(IntruderCallback(every=4, base=str(llama)))
    assert told.last.intruders > 0
    if method == "lora":
        found = resumed(IntruderCallback(every=4)).last
        assert found.intruders == told.last.intruders
        moved = read_trace(tmp_path / "intruders.parquet")["a_movement"]
        assert moved.isna().all(), "of factors that nobody saw at the start"
        return
    with pytest.raises(SettingError, match=r"those of a resumed training.*pass base= with"):
        resumed(IntruderCallback(every=4))


def test_a_model_from_a_checkpoint_of_the_training_is_not_its_base(llama: Path, tmp_path: Path) -> None:
    """People load the last checkpoint themselves, and then resume from it: nothing of the base is left."""
    tiny_trainer(prepared(llama, "full"), tmp_path, save_strategy="steps", save_steps=2, max_steps=2).train()
    checkpoint = tmp_path / "checkpoint-2"

    def trainer(callback: IntruderCallback) -> Any:
        return _trainer(callback, prepared(checkpoint, "full"), tmp_path, save_strategy="no", max_steps=3)

    with pytest.raises(SettingError, match=r"checkpoint-2', a checkpoint of the training.*pass base="):
        trainer(IntruderCallback(every=3)).train(resume_from_checkpoint=str(checkpoint))
    told = IntruderCallback(every=3, base=str(llama))
    trainer(told).train(resume_from_checkpoint=str(checkpoint))
    assert told.last is not None
    with pytest.warns(UserWarning, match=r"checkpoint-2'.*count as the base"):
        trainer(IntruderCallback(every=3)).train()  # another training, from these weights


@pytest.mark.parametrize("moment", ["before", "after"])
def test_it_pickles(moment: str, llama: Path, texts: Path, tmp_path: Path) -> None:
    callback = IntruderCallback(every=4, stop_above=3, base=str(llama), loss_on=texts, loss_tokens=9)
    if moment == "after":
        _trainer(callback, prepared(llama, "full"), tmp_path / "first").train()
    copy = pickle.loads(pickle.dumps(callback))
    assert copy.base_loss is None
    model = prepared(llama, "full")
    _trainer(copy, model, tmp_path / "second").train()
    assert copy.last.intruders == sum(counts_of(llama, model).values())
    if moment == "after":
        assert callback.last.intruders == copy.last.intruders
        assert (callback.base_loss, callback.forgetting) == (copy.base_loss, copy.forgetting)


def test_a_number_too_high_is_told(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    run = SimpleNamespace(alert=lambda **alert: told.append(("wandb", alert)))
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run=run))
    trackio = SimpleNamespace(alert=lambda **alert: told.append(("trackio", alert)))
    monkeypatch.setitem(sys.modules, "trackio", trackio)
    callback = IntruderCallback(every=4, alert_above=0)
    with pytest.warns(UserWarning, match=r"step 4 found \d+ intruders; alert_above is 0"):
        _trainer(callback, prepared(llama, "lora"), tmp_path).train()
    assert [name for name, _ in told] == ["wandb", "trackio"]
    assert told[0][1]["level"] == "WARN"
    assert len(told[0][1]["title"]) < 64, "what W&B takes"
    for _, alert in told:
        assert f"found {callback.last.intruders} intruders" in alert["text"]


@pytest.mark.parametrize("above", [0, 10_000])
def test_trackers_without_a_run_are_left_alone_and_a_lower_number_is_no_alert(
    above: int, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: Any
) -> None:
    def raise_as_trackio_does(**alert: Any) -> None:
        raise RuntimeError("Call trackio.init() before trackio.alert().")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run=None))
    monkeypatch.setitem(sys.modules, "trackio", SimpleNamespace(alert=raise_as_trackio_does))
    _trainer(IntruderCallback(every=4, alert_above=above), prepared(llama, "lora"), tmp_path).train()
    said = [warning for warning in recwarn if f"alert_above is {above}" in str(warning.message)]
    assert len(said) == (above == 0)


def test_each_model_that_model_init_makes_is_measured_from_its_own_start(llama: Path, tmp_path: Path) -> None:
    """A search over settings makes a model for each training, whose head may be drawn anew."""
    name = "model.layers.0.mlp.down_proj.weight"
    starts: list[torch.Tensor] = []

    def make() -> Any:
        model = load_model(str(llama), "causal")
        torch.manual_seed(len(starts))
        torch.nn.init.normal_(model.get_parameter(name), std=0.02)
        starts.append(model.get_parameter(name).detach().double().clone())
        return model

    callback = IntruderCallback(every=4, trace=False)
    kind = partial(Trainer, model_init=make)
    trainer = tiny_trainer(None, tmp_path, kind=kind, callbacks=[callback], learning_rate=1e-3)
    for _ in range(2):
        trainer.train()
        after = trainer.model.get_parameter(name).detach().double()
        matrix = callback.last.matrix(name)
        assert matrix.update.frobenius == pytest.approx(float((after - starts[-1]).norm()), rel=1e-3)
        assert matrix.intruders == intruders_of(starts[-1], after)


def test_a_best_model_that_is_loaded_is_not_audited_as_the_last_step(llama: Path, tmp_path: Path) -> None:
    scores = count(0, -1)  # the first is the best
    callback = IntruderCallback(every=2)
    kind = partial(
        Trainer,
        eval_dataset=[{"input_ids": [5, 6, 7, 8], "labels": [5, 6, 7, 8]}],
        compute_metrics=lambda predictions: {"score": next(scores)},
    )
    trainer = tiny_trainer(
        prepared(llama, "lora"), tmp_path, kind=kind, callbacks=[callback, EndAtThree()], max_steps=9,
        load_best_model_at_end=True, save_strategy="steps", save_steps=1, eval_strategy="steps", eval_steps=1,
        metric_for_best_model="score", greater_is_better=True,
    )  # fmt: skip
    trainer.train()
    assert trainer.state.best_global_step == 1
    assert sorted(read_trace(tmp_path / "intruders.parquet")["step"].unique()) == [2]


def test_two_callbacks_of_one_trainer_need_files_of_their_own(llama: Path, tmp_path: Path) -> None:
    def trained(*callbacks: IntruderCallback) -> None:
        tiny_trainer(prepared(llama, "lora"), tmp_path / "out", callbacks=list(callbacks)).train()

    attention, mlp = (AuditSettings(include=[pattern]) for pattern in ("*q_proj*", "*up_proj*"))
    with pytest.raises(SettingError, match=r"two callbacks .*out/intruders\.parquet'.*pass trace="):
        trained(IntruderCallback(settings=attention), IntruderCallback(settings=mlp))
    other = tmp_path / "mlp.parquet"
    trained(IntruderCallback(settings=attention), IntruderCallback(settings=mlp, trace=other))
    names = [set(read_trace(file)["name"]) for file in (tmp_path / "out" / "intruders.parquet", other)]
    assert all("q_proj" in name for name in names[0])
    assert all("up_proj" in name for name in names[1])


@pytest.mark.parametrize("same", [True, False])
def test_a_callback_of_two_trainers_writes_into_both_folders(same: bool, llama: Path, tmp_path: Path) -> None:
    callback, model = IntruderCallback(every=2, keep_intruders_below=10**6), prepared(llama, "lora")
    kept: list[bytes] = []
    for steps, out in ((4, tmp_path / "first"), (2, tmp_path / "second")):
        _trainer(callback, model if same else prepared(llama, "lora"), out, max_steps=steps).train()
        assert callback.trace == out / "intruders.parquet"
        assert read_trace(out / "intruders.parquet")["step"].max() == steps
        (state,) = out.glob("checkpoint-*")
        assert json.loads((state / "kept.json").read_text())["step"] == steps
        kept.append((tmp_path / "first" / "checkpoint-4" / "adapter_model.safetensors").read_bytes())
        if out.name == "first":
            names = sorted(file.name for file in out.iterdir())
    assert sorted(file.name for file in (tmp_path / "first").iterdir()) == names
    assert kept[0] == kept[1]
    (tmp_path / "third").mkdir()
    (tmp_path / "third" / "intruders.parquet").write_bytes(b"no")
    with pytest.raises(SettingError, match="cannot be read as Parquet"):
        _trainer(callback, model, tmp_path / "third").train()
