"""What cannot be audited, kept or told is refused before the first step, by the same words as later."""

from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.deepspeed import HfDeepSpeedConfig
from peft import IA3Config, LilyConfig, PrefixTuningConfig, get_peft_model
from torch import nn

from intruders.audits.audit_settings import AuditSettings
from intruders.checkpoints.opening.open import open_checkpoint
from intruders.checkpoints.stored.checkpoint import StoredTensor
from intruders.checkpoints.stored.matrices import MatrixView
from intruders.errors import CheckpointError, PairingError, ResultFileError, SettingError
from intruders.models.loading import load_model
from intruders.training.callback.callback import IntruderCallback
from intruders.training.callback.trace import read_trace
from tests.training.callback.trainers import audited, prepared, tiny_trainer


@pytest.fixture
def trainer(llama: Path, tmp_path: Path) -> Any:
    return tiny_trainer(prepared(llama, "lora"), tmp_path / "out")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"include": ["*.q_prod.*"]}, "include '\\*.q_prod.\\*' matches none"),
        ({"include": ["*norm*"]}, "none of the (matrices|1[46] )"),
        ({"exclude": ["*"]}, "none of the 1[46] matrices"),
    ],
)
@pytest.mark.parametrize("method", ["lora", "full", "pissa"])
def test_settings(method: str, settings: dict[str, Any], told: str, llama: Path, tmp_path: Path) -> None:
    trainer = tiny_trainer(prepared(llama, method), tmp_path)
    with pytest.raises(SettingError, match=told):
        IntruderCallback(trainer, settings=AuditSettings(**settings))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"every": 0}, "every is 0"),
        ({"stop_above": -1}, "stop_above is -1"),
        ({"loss_on": "no-such"}, "corpus 'no-such' is not known"),
        ({"every": 2.5}, r"every is 2\.5; expected a whole number of steps"),
    ],
)
def test_values_of_its_own(given: dict[str, Any], told: str, trainer: Any) -> None:
    with pytest.raises(SettingError, match=told):
        IntruderCallback(trainer, **given)


@pytest.mark.parametrize("with_base", [False, True])
@pytest.mark.parametrize(
    "config",
    [LilyConfig(target_modules=["q_proj"], r=2), PrefixTuningConfig(num_virtual_tokens=2)],
    ids=lambda config: str(config.peft_type.value),
)
def test_adapters_that_are_not_read(config: Any, with_base: bool, llama: Path, tmp_path: Path) -> None:
    config.task_type = "CAUSAL_LM"
    trainer = tiny_trainer(get_peft_model(load_model(str(llama), "causal"), config), tmp_path)
    said = f"type {config.peft_type.value}, which (adds activations|decides for each)"
    with pytest.raises(CheckpointError, match=said):
        IntruderCallback(trainer, base=str(llama) if with_base else None)


def test_a_model_that_trains_no_matrix(llama: Path, tmp_path: Path) -> None:
    model = load_model(str(llama), "causal")
    for parameter in model.parameters():
        parameter.requires_grad = parameter.ndim == 1
    for base in (None, str(llama)):
        with pytest.raises(SettingError, match="LlamaForCausalLM has no trainable matrix"):
            IntruderCallback(tiny_trainer(model, tmp_path), base=base)


@pytest.mark.parametrize("method", ["lora", "full", "pissa"])
def test_a_base_that_does_not_fit(method: str, llama: Path, tmp_path: Path) -> None:
    other = {name.replace("proj", "other"): torch.ones(7, 5) for name in open_checkpoint(str(llama)).names()}
    trainer = tiny_trainer(prepared(llama, method), tmp_path)
    with pytest.raises(PairingError):
        IntruderCallback(trainer, base=other)
    with pytest.raises(CheckpointError, match="no-such-base"):
        IntruderCallback(trainer, base=str(tmp_path / "no-such-base"))


def test_a_trace_that_cannot_be_written_or_is_another_file(trainer: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "notes.parquet").write_bytes(b"no")
    pd.DataFrame({"loss": [1.0]}).to_parquet(tmp_path / "losses.parquet")
    for name, error, said in (
        ("file/trace.parquet", ResultFileError, r"cannot write the trace .*/file/trace.parquet"),
        ("", ResultFileError, "is a folder"),
        ("notes.parquet", SettingError, "cannot be read as Parquet"),
        ("losses.parquet", SettingError, "has no column 'step'"),
    ):
        with pytest.raises(error, match=said):
            IntruderCallback(trainer, trace=tmp_path / name)
    assert list(pd.read_parquet(tmp_path / "losses.parquet")["loss"]) == [1.0]
    with pytest.raises(SettingError, match="cannot be read as Parquet"):
        read_trace(tmp_path / "nothing.parquet")


# Without a base, PiSSA and OLoRA have theirs made anew from what their start left, once: that reads every weight.
@pytest.mark.parametrize(
    ("method", "with_base"),
    [*product(("full", "lora", "dora"), (True, False)), ("pissa", True), ("olora", True)],
)
def test_what_is_taken_reads_no_weight(
    method: str, with_base: bool, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check pairs names and shapes; loading a matrix of a 7B base twice would be felt."""
    reads: list[str] = []
    read = MatrixView.read

    def noted(view: MatrixView, stored: StoredTensor) -> Any:
        reads.append(view.name)
        return read(view, stored)

    trainer = tiny_trainer(prepared(llama, method), tmp_path)
    monkeypatch.setattr(MatrixView, "read", noted)
    IntruderCallback(trainer, base=str(llama) if with_base else None)
    assert reads == []


def test_adapters_without_a_low_rank_are_taken(llama: Path, tmp_path: Path) -> None:
    config = IA3Config(target_modules=["q_proj", "down_proj"], feedforward_modules=["down_proj"])
    model = get_peft_model(load_model(str(llama), "causal"), config)
    assert len(audited(tiny_trainer(model, tmp_path), every=4).matrices) == 4


def _as_zero_3_leaves(model: nn.Module) -> dict[str, torch.Tensor]:
    """Empty every parameter, as ZeRO-3 does, and put its mark on each; return what its engine would gather."""
    whole = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for number, parameter in enumerate(model.parameters()):
        parameter.data = torch.empty(0)
        parameter.ds_id = number  # type: ignore[attr-defined]
    return whole


class _Engine:
    """The one method of DeepSpeed's engine that is called, by its signature in DeepSpeed 0.18."""

    def __init__(self, whole: dict[str, torch.Tensor], trainable: set[str]) -> None:
        self.whole, self.trainable = whole, trainable
        self.asked: list[bool] = []

    def _zero3_consolidated_16bit_state_dict(
        self, exclude_frozen_parameters: bool = False
    ) -> dict[str, torch.Tensor]:
        self.asked.append(exclude_frozen_parameters)
        left_out = self.whole.keys() - self.trainable if exclude_frozen_parameters else set()
        return {name: tensor for name, tensor in self.whole.items() if name not in left_out}


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_model_that_deepspeed_sharded(method: str, llama: Path, tmp_path: Path) -> None:
    """DeepSpeed is not in these tests: its marks, and what its engine gathers, are imitated."""
    model = prepared(llama, method)
    trainer = tiny_trainer(model, tmp_path)
    plain = audited(trainer, every=2, trace=False)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    whole = _as_zero_3_leaves(model)
    told = (trainer.args, trainer.state, trainer.control)

    without = IntruderCallback(every=2, base=str(llama))
    with pytest.raises(SettingError, match=r"sharded by DeepSpeed ZeRO-3.*trainer=trainer"):
        without.on_train_begin(*told, model=model)
    trainer.deepspeed = _Engine(whole, trainable)
    callback = IntruderCallback(trainer, every=2, trace=False, base=str(llama) if method == "full" else None)
    callback.on_train_begin(*told, model=model)
    callback.on_step_end(*told, model=model)
    counts = [{m.name: m.intruders for m in each.matrices} for each in (callback.last, plain)]
    assert counts[0] == counts[1]
    assert trainer.deepspeed.asked == [method == "lora"]
    if method == "full":
        with pytest.raises(SettingError, match=r"pass base="):
            IntruderCallback(trainer)


def test_a_sharded_adapter_needs_its_base(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it is: the Trainer shards on GPUs alone, so that its settings are put where it puts them."""
    model = prepared(llama, "lora")
    pissa = tiny_trainer(prepared(llama, "pissa"), tmp_path)
    trainer = tiny_trainer(model, tmp_path)
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    monkeypatch.setattr(trainer.accelerator.state, "fsdp_plugin", plugin, raising=False)
    IntruderCallback(trainer)
    config = model.peft_config["default"]
    config.base_model_name_or_path = str(tmp_path / "gone")
    with pytest.raises(CheckpointError, match=r"gone', which the adapter names, cannot be opened; pass"):
        IntruderCallback(trainer)
    config.base_model_name_or_path = None
    with pytest.raises(SettingError, match=r"names 0 bases on disk; expected one; pass base="):
        IntruderCallback(trainer)
    IntruderCallback(trainer, base=str(llama))
    with pytest.raises(SettingError, match=r"start 'pissa' changed the weights beneath it"):
        IntruderCallback(pissa)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_deepspeed_trainers(stage: int, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages 1 and 2 leave the parameters whole, so that the base stays in memory."""
    model = prepared(llama, "lora")
    model.peft_config["default"].base_model_name_or_path = None
    trainer = tiny_trainer(model, tmp_path)
    plugin = SimpleNamespace(hf_ds_config=HfDeepSpeedConfig({"zero_optimization": {"stage": stage}}))
    monkeypatch.setattr(type(trainer.accelerator.state), "deepspeed_plugin", plugin)
    if stage < 3:
        IntruderCallback(trainer)
        return
    with pytest.raises(SettingError, match=r"names 0 bases on disk"):
        IntruderCallback(trainer)
