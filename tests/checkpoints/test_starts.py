"""Which starts and variants of the installed PEFT write to the base's weights: run, and looked at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.lora.config import BdLoraConfig, KasaConfig, MontecloraConfig, VeloraConfig
from safetensors.torch import save_file

from intruders.audits.audit import audit
from intruders.checkpoints.adapters.starts import changes_the_base
from intruders.checkpoints.pairing.pair_sides import open_sides, pair_sides
from intruders.errors import CheckpointError

from .adapted import OTHERS, STARTS, adapt, move, own_weights, starts_of_installed_peft
from .models import saved, tiny_llama

READ = {"LORA", "LOHA", "LOKR", "ADALORA", "VERA", "IA3"}
# Every field of LoraConfig that makes another method of LoRA: a value for it, and whether it writes to the base's
# weights. None stands for what the tiny Llama cannot carry.
VARIANTS: dict[str, tuple[Any, bool | None]] = {
    "use_dora": (True, False),
    "velora_config": (VeloraConfig(num_groups=2), False),
    "monteclora_config": (MontecloraConfig(), False),
    "alora_invocation_tokens": ([1, 2], False),
    "use_bdlora": (
        BdLoraConfig(nblocks=2, target_modules_bd_a=["q_proj"], target_modules_bd_b=["down_proj"]),
        False,
    ),
    "kasa_config": (KasaConfig(), True),
    "use_qalora": (True, None),
    "arrow_config": (peft.ArrowConfig(), None),
}
ACCEPTED = {"use_dora", "velora_config"}


def test_every_start_of_the_installed_peft_is_known() -> None:
    assert set(STARTS) == starts_of_installed_peft()


@pytest.mark.parametrize("start", STARTS)
def test_starts_that_write_to_the_base_are_those_of_the_list(start: bool | str, tmp_path: Path) -> None:
    adapted = adapt("llama", "lora", start, tmp_path, train=False)
    own = own_weights(adapted.model)
    written = [name for name, weight in adapted.before.items() if not torch.equal(own[name], weight)]
    assert bool(written) == STARTS[start] == changes_the_base(start)


def test_every_variant_of_the_installed_peft_is_known() -> None:
    fields = peft.LoraConfig.__dataclass_fields__.values()
    assert {field.name for field in fields if field.metadata.get("is_lora_variant")} <= set(VARIANTS)


@pytest.mark.parametrize("name", [name for name, (_, writes) in VARIANTS.items() if writes is not None])
def test_variants_that_write_to_the_base_are_refused(name: str, tmp_path: Path) -> None:
    value, writes = VARIANTS[name]
    adapted = adapt("llama", "lora", True, tmp_path, **{name: value})
    own = own_weights(adapted.model)
    written = any(not torch.equal(own[weight], adapted.before[weight]) for weight in adapted.before)
    assert written == writes
    if name in ACCEPTED:
        assert not written
        return
    for sources in (
        (tiny_llama(), saved(adapted.model, tmp_path / "adapter")),
        (adapted.before, adapted.model),
    ):
        with pytest.raises(CheckpointError, match=f"uses {name}, "):
            audit(*sources, cache=False)


@pytest.mark.parametrize("name", sorted(set(VARIANTS) - ACCEPTED))
def test_variants_that_are_not_read_are_named(name: str, tmp_path: Path) -> None:
    folder = saved(adapt("llama", "lora", True, tmp_path).model, tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {name: {"some": "value"}}))
    with pytest.raises(CheckpointError, match=f"uses {name}, "):
        open_sides(tiny_llama(), folder)


@pytest.mark.parametrize("kind", sorted({kind.value for kind in PEFT_TYPE_TO_TUNER_MAPPING} - READ))
def test_types_that_are_not_read_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    config = {"peft_type": kind, "base_model_name_or_path": "x"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    save_file({"base_model.model.a.weight": torch.ones(2, 2)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=f"of type {kind}, which is not read here"):
        open_sides(tiny_llama(), tmp_path)


@pytest.mark.parametrize("method", OTHERS)
def test_other_methods_leave_the_base_as_it_is(method: str, tmp_path: Path) -> None:
    adapted = adapt("llama", method, True, tmp_path)
    own = own_weights(adapted.model)
    assert all(torch.equal(own[name], weight) for name, weight in adapted.before.items())


def test_adalora_does_what_no_start_says(tmp_path: Path) -> None:
    """It takes over LoRA's setting and starts from zero whatever it is: its folder is a plain one."""
    config = peft.AdaLoraConfig(init_r=4, target_modules=["q_proj"], total_step=10, init_lora_weights="pissa")
    model = peft.get_peft_model(tiny_llama(), config)
    move(model, 1)
    assert pair_sides(*open_sides(tiny_llama(), saved(model, tmp_path))).pairs


def test_several_active_ia3_adapters_are_refused() -> None:
    config = peft.IA3Config(target_modules=["q_proj"], feedforward_modules=[])
    model = peft.get_peft_model(tiny_llama(), config)
    model.add_adapter("second", config)
    model.base_model.set_adapter(["default", "second"])
    with pytest.raises(CheckpointError, match="2 active IA3 adapters, whose vectors PEFT multiplies"):
        open_sides(tiny_llama(), model)
