"""The nats that audits during training predict, against the audit of what the training saved."""

import warnings
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model

from intruders.audits.audit import audit
from intruders.audits.base_cache import NATS
from intruders.measures.prepare_nats import NatsPlan
from intruders.models.loading import load_model
from intruders.training.callback.callback import IntruderCallback
from tests.measures.test_prepare_nats import text_of
from tests.training.callback.trainers import logged, prepared, tiny_trainer

KEY = "forgetting/predicted_kl"


@pytest.fixture
def cache(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the user's base cache, in which the base is prepared."""
    monkeypatch.setenv("INTRUDERS_CACHE", str(tmp_path / "home"))
    (tmp_path / "home" / "bases").mkdir(parents=True)
    NatsPlan.of(str(llama), text_of(tmp_path, 20), sequences=40).keep(None)
    return tmp_path / "home" / "bases"


def trained(model: Any, folder: Path, lr: float = 0.002, **given: Any) -> list[dict[str, Any]]:
    trainer = tiny_trainer(model, folder / "run", learning_rate=lr)
    trainer.add_callback(IntruderCallback(trainer, every=2, **given))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        trainer.train()
    model.save_pretrained(folder / "model")
    return [{**entry, "said": [str(each.message) for each in said]} for entry in logged(trainer)]


@pytest.mark.parametrize(("method", "beside"), [("lora", 0), ("full", 0), ("all", 7)])
def test_the_last_step_has_the_nats_of_the_saved_model(
    method: str, beside: int, llama: Path, cache: Path, tmp_path: Path
) -> None:
    """Where all weights are trained, norms and embeddings are not counted."""
    model = load_model(str(llama), "causal") if method == "all" else prepared(llama, method)
    first, last = trained(model, tmp_path)
    found = audit(str(llama), str(tmp_path / "model"), cache=cache).forgetting
    assert last[KEY] == pytest.approx(found.kl.estimate, rel=1e-4)
    ends = [found.kl.low, found.kl.high]
    assert [last[f"{KEY}/{end}"] for end in ("low", "high")] == pytest.approx(ends, rel=1e-4)
    assert 0 < first[KEY] < last[KEY]
    assert last[f"{KEY}/not_counted"] == len(found.left_out) == beside


def test_beyond_a_nat_the_lower_end_alone_is_logged(llama: Path, cache: Path, tmp_path: Path) -> None:
    _, last = trained(prepared(llama, "lora"), tmp_path, lr=0.5)
    assert last[f"{KEY}/low"] == 1
    assert KEY not in last
    assert f"{KEY}/high" not in last


def test_of_rank_1_one_warning_is_all(llama: Path, cache: Path, tmp_path: Path) -> None:
    model = load_model(str(llama), "causal")
    steps = trained(get_peft_model(model, LoraConfig(r=1, target_modules="all-linear")), tmp_path)
    assert len(steps) == 2
    assert not any(KEY in key for step in steps for key in step)
    assert sum("no nats are predicted of an update of rank 1" in said for said in steps[0]["said"]) == 1


def test_damage_is_one_warning_and_no_number(llama: Path, cache: Path, tmp_path: Path) -> None:
    for file in cache.glob(f"{NATS}/*/*-inputs.bin"):
        file.write_bytes(file.read_bytes()[:-1])
    steps = trained(prepared(llama, "lora"), tmp_path)
    assert len(steps) == 2
    assert not any(KEY in key for step in steps for key in step)
    assert sum("is damaged" in said for said in steps[0]["said"]) == 1
