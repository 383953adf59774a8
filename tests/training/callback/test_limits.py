"""A limit while training: the last state below it is what the model has, and what is saved, at the end."""

import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainerCallback

from intruders.errors import NonFiniteError, SettingError
from intruders.models.loading import load_model
from intruders.training.callback.callback import IntruderCallback
from intruders.training.finetune import finetune
from intruders.training.finetune_config import FinetuneConfig
from intruders.training.run_folder import RunFolder
from tests.tiny import save_llama
from tests.training.callback.trainers import TOKENS, audited, logged, loss_by_hand, prepared, tiny_trainer
from tests.training.tiny_runs import Interrupt, assert_equal, config_of, ruined, when

FIVE_STEPS: dict[str, Any] = {"max_steps": 5, "lr_scheduler_type": "constant"}

States = dict[int, dict[str, torch.Tensor]]
Rises = Callable[[str], list[float]]


def _kept_in(states: States) -> TrainerCallback:
    """Copy the trained weights after every step, before other callbacks act on them."""
    return when("step_end", lambda state, model: states.update({state.global_step: _trained(model)}))


def _trained(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def _read(folder: Path, base: Any) -> Any:
    """A saved model, or a saved adapter on its base."""
    own = AutoModelForCausalLM
    return own.from_pretrained(folder) if base is None else PeftModel.from_pretrained(base, folder)


@pytest.fixture(scope="module")
def llama(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base that knows the texts, so that it can forget them: a random one would learn from any other text."""
    location = save_llama(tmp_path_factory.mktemp("llama"))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(location), AutoTokenizer.from_pretrained(location)
    rows = [tokenizer(file.read_text())["input_ids"][:TOKENS] for file in sorted(texts.iterdir())]
    ids = torch.tensor(rows)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(80):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(location)
    return location


@pytest.fixture(scope="module")
def rises_of(llama: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Rises:
    """The forgetting at every step of a training without a limit, by method."""

    @cache
    def rises(method: str) -> list[float]:
        torch.manual_seed(0)
        callback = IntruderCallback(every=1, loss_on=str(texts), loss_tokens=TOKENS)
        out = tmp_path_factory.mktemp(method)
        trainer = tiny_trainer(prepared(llama, method), out, callbacks=[callback], **FIVE_STEPS)
        trainer.train()
        return [entry["forgetting/known"] for entry in logged(trainer, "forgetting/known")]

    return rises


@pytest.mark.parametrize(
    ("goes_on", "method"),
    [(False, "full"), (False, "lora"), (False, "dora"), (False, "pissa"), (True, "full"), (True, "lora")],
)
def test_the_last_state_below_the_limit_is_put_back(
    goes_on: bool, method: str, rises_of: Rises, llama: Path, texts: Path, tmp_path: Path
) -> None:
    rises = rises_of(method)
    # The highest rise after the first: it is not below itself.
    limit = max(rises[1:])
    assert max(0.0, rises[0]) < limit, "the case shows something"
    below = [step for step, rise in enumerate(rises, start=1) if rise < limit]
    first_over = next(step for step, rise in enumerate(rises, start=1) if rise >= limit)
    last = 5 if goes_on else first_over
    expected = [step for step in below if step <= last][-1]

    torch.manual_seed(0)
    model, states = prepared(llama, method), States()
    callback = IntruderCallback(
        every=1, loss_on=str(texts), loss_tokens=TOKENS, keep_forgetting_below=limit, go_on_over_limit=goes_on
    )
    trainer = tiny_trainer(model, tmp_path / "out", callbacks=[_kept_in(states), callback], **FIVE_STEPS)
    trainer.train()
    assert trainer.state.global_step == last
    assert callback.has_stopped_at_limit == (not goes_on)
    assert_equal(_trained(model), states[expected])
    (kept,) = (tmp_path / "out").glob("checkpoint-*")  # of the others none is left
    record = json.loads((kept / "kept.json").read_text())
    assert (record["step"], kept.name) == (expected, f"checkpoint-{expected}")
    assert record["forgetting"] == rises[expected - 1] < limit
    assert callback.put_back == (None if expected == last else record)
    if method != "pissa":  # whose adapter belongs to a base that its start changed
        trainer.save_model(str(tmp_path / "saved"))
        before = loss_by_hand(load_model(str(llama), "causal"), llama, texts)
        for folder in (tmp_path / "saved", kept):
            base = load_model(str(llama), "causal")
            read = _read(folder, None if method == "full" else base)
            rise = loss_by_hand(read, llama, texts) - before
            assert rise == pytest.approx(record["forgetting"], abs=2e-5)  # single precision


@pytest.mark.parametrize("limit", ["forgetting", "intruders"])
@pytest.mark.parametrize("goes_on", [False, True])
def test_the_kept_state_replaces_one_of_nan(
    goes_on: bool, limit: str, llama: Path, texts: Path, tmp_path: Path
) -> None:
    limits: dict[str, Any] = {"keep_intruders_below": 10**6}
    if limit == "forgetting":
        limits = {"loss_on": str(texts), "loss_tokens": TOKENS, "keep_forgetting_below": 1e6}

    def trained(step: int) -> tuple[Any, States, IntruderCallback]:
        model, states = prepared(llama, "lora"), States()
        callback = IntruderCallback(every=1, go_on_over_limit=goes_on, **limits)
        callbacks = [_kept_in(states), ruined(step), callback]
        tiny_trainer(model, tmp_path / f"out-{step}", callbacks=callbacks, max_steps=3).train()
        return model, states, callback

    model, states, callback = trained(3)
    assert callback.put_back["step"] == 2
    assert callback.is_below_limit
    assert_equal(_trained(model), states[2])
    with (
        pytest.raises(NonFiniteError, match=r"contains NaN or infinity at step .*no earlier state"),
        pytest.warns(UserWarning, match="no audit saw a state below the limit"),
    ):
        trained(1)


def test_a_count_of_intruders_is_a_limit_too(llama: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    trainer = tiny_trainer(prepared(llama, "lora"), tmp_path / "first")
    audited(trainer, every=1)
    counts = [entry["intruders/total"] for entry in logged(trainer)]
    most = max(counts)
    assert most > counts[0], "the case shows something"
    torch.manual_seed(0)
    callback = IntruderCallback(every=1, keep_intruders_below=most)
    trainer = tiny_trainer(prepared(llama, "lora"), tmp_path / "out", callbacks=[callback])
    trainer.train()
    first_over = next(step for step, count in enumerate(counts, start=1) if count == most)
    assert trainer.state.global_step == first_over
    assert callback.put_back == {"schema": 1, "step": first_over - 1, "intruders": counts[first_over - 2]}


def test_a_resumed_training_puts_back_what_is_below_the_limits_of_now(llama: Path, tmp_path: Path) -> None:
    """And leaves the checkpoints that the Trainer would have written without a limit."""

    def trained(limit: int, resume: Path | None) -> tuple[Any, States, IntruderCallback]:
        torch.manual_seed(0)
        model, states = prepared(llama, "lora"), States()
        callback = IntruderCallback(every=3, keep_intruders_below=limit, go_on_over_limit=True)
        settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 1}
        settings["max_steps"] = 4 if resume is None else 6
        callbacks = [_kept_in(states), *([ruined(6)] if resume else []), callback]
        trainer = tiny_trainer(model, tmp_path, callbacks=callbacks, **settings)
        trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
        return model, states, callback

    _, before, first = trained(10**6, None)
    assert first.put_back is None
    last = tmp_path / "checkpoint-4"
    record = json.loads((last / "kept.json").read_text())
    assert record["step"] == 4
    assert not (tmp_path / "checkpoint-3").exists(), "of an audit alone, and not the last below the limit"
    model, _, callback = trained(10**6, last)
    assert callback.put_back == record
    assert_equal(_trained(model), before[4])
    with (
        pytest.raises(NonFiniteError, match="no earlier state"),
        pytest.warns(UserWarning, match="no audit saw a state below the limit"),
    ):
        trained(1, last)


def test_settings_that_do_not_go_together_are_refused(llama: Path, tmp_path: Path) -> None:
    callback = IntruderCallback(keep_intruders_below=3)
    with pytest.raises(SettingError, match="load_best_model_at_end"):
        tiny_trainer(
            prepared(llama, "lora"), tmp_path, callbacks=[callback], kind=partial(Trainer, eval_dataset=[]),
            load_best_model_at_end=True, save_strategy="steps", save_steps=2, eval_strategy="steps", eval_steps=2,
        )  # fmt: skip
    two = [IntruderCallback(keep_intruders_below=3, trace=False) for _ in range(2)]
    trainer = tiny_trainer(prepared(llama, "lora"), tmp_path, callbacks=two)
    with pytest.raises(SettingError, match="two callbacks of one Trainer have a limit; expected one"):
        trainer.train()


def _config(llama: Path, texts: Path, out: Path, **settings: Any) -> FinetuneConfig:
    given: dict[str, Any] = {
        "lr": 3e-2, "steps": 4, "max_eval_samples": 2, "save_steps": 4, "audit_steps": 1, "loss_on": str(texts),
        "loss_tokens": TOKENS, "lr_scheduler_type": "constant",
    }  # fmt: skip
    return config_of(llama, out, **(given | settings))


@pytest.mark.parametrize("method", ["full", pytest.param("lora", marks=pytest.mark.slow)])
def test_finetune_saves_the_state_after_a_kill(method: str, llama: Path, texts: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"method": method, "lr": {"full": 2e-3, "lora": 1e-2}[method]}
    plain = finetune(_config(llama, texts, tmp_path / "plain", **settings))
    rises = [entry["forgetting/known"] for entry in plain.log if "forgetting/known" in entry]
    recorded = plain.record["forgetting"]
    assert (recorded["corpus"], recorded["rise"]) == (str(texts), rises[-1])
    assert f"forgetting {rises[-1]:.3f} nats per token on {texts} (measured in " in plain.summary()
    limit = max(rises[1:])
    assert max(0.0, rises[0]) < limit, "the case shows something"
    first_over = next(step for step, rise in enumerate(rises, start=1) if rise >= limit)
    whole = finetune(_config(llama, texts, tmp_path / "whole", **settings, keep_forgetting_below=limit))
    assert whole.record["stopped_by"] == "limit"
    assert whole.record["steps"] == first_over
    assert whole.record["saved_step"] == first_over - 1
    assert whole.record["forgetting"]["rise"] == rises[first_over - 2] < limit
    assert f"the state of step {first_over - 1} was saved, the last below the limit" in whole.summary()
    assert not whole.checkpoints.exists()
    # Others end without a checkpoint of every step, which takes longer than the step.
    settings |= {"save_steps": 1, "keep_forgetting_below": limit}
    config = _config(llama, texts, tmp_path / "killed", **settings)
    with pytest.raises(KeyboardInterrupt):
        finetune(config, [Interrupt(first_over)])
    kept = RunFolder(tmp_path / "killed").checkpoints / f"checkpoint-{first_over - 1}"
    assert json.loads((kept / "kept.json").read_text())["step"] == first_over - 1
    killed = finetune(config)
    assert killed.record["saved_step"] == first_over - 1
    name = "model.safetensors" if method == "full" else "adapter_model.safetensors"
    assert (whole.path / name).read_bytes() == (killed.path / name).read_bytes()
    base = AutoModelForCausalLM.from_pretrained(llama)
    before = loss_by_hand(base, llama, texts)
    assert recorded["base_loss"] == pytest.approx(before, rel=1e-5)
    saved = _read(whole.path, None if method == "full" else base)
    assert loss_by_hand(saved, llama, texts) - before == pytest.approx(rises[first_over - 2], abs=2e-5)


def test_a_run_that_was_never_below_is_saved_and_says_so(llama: Path, texts: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"step 1 is over the limit; no audit saw a state below the limit"):
        run = finetune(_config(llama, texts, tmp_path / "run", keep_forgetting_below=1e-6))
    assert run.record["over_limit"]
    assert run.record["stopped_by"] == "limit"
    assert (run.path / "adapter_model.safetensors").is_file()
    assert not run.checkpoints.exists()
    assert "over the limit, since no audit saw a state below it" in run.summary()


@pytest.mark.parametrize("has_two", [True, False])
def test_other_adapters_are_refused(
    has_two: bool, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Some versions ask for a PEFT that is not out yet.
    monkeypatch.setattr("transformers.integrations.peft.check_peft_version", lambda **least: None)
    model: Any = load_model(str(llama), "causal")
    config = LoraConfig(r=2, target_modules=["q_proj"])
    if has_two:
        model = get_peft_model(model, config)
        model.add_adapter("other", config)
        model.base_model.set_adapter(["default", "other"])
    else:
        model.add_adapter(config)
    with pytest.raises(SettingError, match=r"its Trainer loads one adapter of a PeftModel alone; wrap"):
        IntruderCallback(tiny_trainer(model, tmp_path), keep_intruders_below=9)


def test_what_is_trained_beneath_an_adapter_and_not_saved_is_refused(llama: Path, tmp_path: Path) -> None:
    """LongLoRA trains norms and embeddings too; a state would be the adapter of one step beside those of another."""
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["down_proj"])
    model = get_peft_model(load_model(str(llama), "causal"), config)
    IntruderCallback(tiny_trainer(model, tmp_path), keep_intruders_below=9)  # all that it trains is saved
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith("model.norm.weight"):
            parameter.requires_grad_(True)
    with pytest.raises(SettingError, match=r"'model\.norm\.weight' beneath its adapters is trained"):
        IntruderCallback(tiny_trainer(model, tmp_path), keep_intruders_below=9)
