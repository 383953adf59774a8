"""Training an adapter on a base that bitsandbytes quantized: what is trained, what stays, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from intruders.errors import SettingError
from intruders.models.loading import load_model
from intruders.models.loading_settings import Loading
from intruders.training.callback.trace import read_trace
from intruders.training.finetune import finetune
from intruders.training.finetune_config import FinetuneConfig
from tests.tiny import save_llama, short_task


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """bitsandbytes computes on a processor in blocks of 64 inputs."""
    return str(save_llama(tmp_path_factory.mktemp("qlora") / "base", width=128))


def settings(base: str, out: Path, **options: Any) -> FinetuneConfig:
    given = {"method": "lora", "rank": 2, "steps": 4, "batch_size": 2, "lr": 1e-2, "max_eval_samples": 2}
    given |= {"max_new_tokens": 8, "max_train_samples": 20}
    return FinetuneConfig(base=base, task=short_task(Path(base).parent), out=str(out), **{**given, **options})


@pytest.mark.parametrize("load_in", ["4bit", "8bit"])
def test_only_the_adapter_is_trained(load_in: str, base: str, tmp_path: Path) -> None:
    """The first step of B from zero follows the gradient of the loss on PEFT's own quantized model."""
    pytest.importorskip("bitsandbytes")
    finetune(settings(base, tmp_path / "run", load_in=load_in, audit_steps=2))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["config"]["load_in"] == load_in
    factors = load_file(tmp_path / "run" / "adapter_model.safetensors")
    moved = {name for name, value in factors.items() if "lora_B" in name and float(value.norm()) > 0}
    assert len(moved) == len(factors) / 2
    from peft import PeftModel

    loaded: Any = load_model(base, "causal", loading=Loading(load_in=load_in))
    ids = torch.tensor([[5, 20, 31, 7, 44, 12]])
    with torch.no_grad():
        before = loaded(input_ids=ids).logits
        tuned: Any = PeftModel.from_pretrained(loaded, str(tmp_path / "run"))
        assert not torch.equal(tuned(input_ids=ids).logits, before)
    # The trace compares with the weights that the adapter was trained on: the update alone tells the two apart.
    trace = read_trace(tmp_path / "run" / "intruders.parquet")
    names = {name.removeprefix("base_model.model.").partition(".lora_")[0] + ".weight" for name in factors}
    assert set(trace["name"]) == names


@pytest.mark.parametrize("method", ["full", "pissa", "milora", "oplora"])
def test_methods_that_need_the_base_itself_refuse_it(method: str, base: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="load_in"):
        settings(base, tmp_path, method=method, load_in="4bit", **({"rank": 8} if method == "full" else {}))


def test_a_classification_head_refuses_it(base: str, tmp_path: Path) -> None:
    config = settings(base, tmp_path, load_in="4bit")
    with pytest.raises(SettingError, match="the head of a classification task is trained with the base"):
        config.loading("classification")
