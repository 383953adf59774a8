"""New adapters, loaded by PEFT itself: on bases whose files name tensors otherwise, and what they cannot hold."""

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn

from intruders.errors import CheckpointError
from intruders.mitigation.write_at_scale import write_at_scale
from tests.checkpoints.models import moved, saved, tiny_bert, tiny_gpt2, tiny_llama, tiny_llava, with_lora
from tests.mitigation.hot import mitigated, renamed_in

IDS = torch.tensor([[5, 20, 31, 7, 12]])


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def assert_alike(model: nn.Module, other: nn.Module) -> None:
    torch.testing.assert_close(logits(model), logits(other), atol=1e-5, rtol=1e-4)


def with_adapter(model: nn.Module, folder: Path) -> nn.Module:
    """PEFT's model, which warns of every weight that the file has none for."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*missing adapter keys")
        return peft.PeftModel.from_pretrained(model, str(folder))


def trained(model: nn.Module, targets: str) -> nn.Module:
    """The model after an update of rank 2 of some of its linear weights."""
    merged: nn.Module = with_lora(model, 3, target_modules=[targets]).merge_and_unload()
    return merged


def without_prefix(folder: Path, prefix: str) -> Path:
    """As files of earlier releases have the names: the hub's gpt2 is one."""
    return renamed_in(folder, lambda name: name.removeprefix(prefix))


MODELS: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "hub gpt2": (tiny_gpt2, "transformer.", "attn.c_attn"),
    "names of an earlier class": (tiny_llava, "", "language_model.layers.1.self_attn.v_proj"),
}


@pytest.mark.parametrize("tuned_is_bare", [False, True])
@pytest.mark.parametrize("case", MODELS)
def test_of_full_fine_tuning_peft_loads_every_weight(case: str, tuned_is_bare: bool, tmp_path: Path) -> None:
    made, prefix, targets = MODELS[case]
    model = made()
    without_prefix(saved(model, tmp_path / "base"), prefix)
    tuned = trained(copy.deepcopy(model), targets)
    saved(tuned, tmp_path / "tuned")
    if tuned_is_bare:
        without_prefix(tmp_path / "tuned", prefix)
    mitigated(tmp_path, scale=1.0, form="adapter", rank=2)
    assert not torch.allclose(logits(model), logits(tuned), atol=1e-3)
    assert_alike(with_adapter(model, tmp_path / "out"), tuned)


def test_of_a_classifier_it_has_the_names_of_the_classifier(tmp_path: Path) -> None:
    """The base is the encoder alone, whose names have no ``bert.``."""
    model = tiny_bert(classes=3)
    saved(model.bert, tmp_path / "base")  # type: ignore[arg-type]
    tuned = trained(copy.deepcopy(model), "query")
    saved(tuned, tmp_path / "tuned")
    mitigated(tmp_path, scale=1.0, form="adapter", rank=2)
    assert_alike(with_adapter(model, tmp_path / "out"), tuned)


def updates_of(adapted: Any) -> dict[str, Tensor]:
    """What PEFT adds to each weight."""
    modules = adapted.named_modules()
    return {
        name: part.get_delta_weight("default") for name, part in modules if hasattr(part, "get_delta_weight")
    }


SUMS: dict[str, tuple[Callable[[], nn.Module], str, dict[str, Any]]] = {
    "hub gpt2": (tiny_gpt2, "transformer.", {"target_modules": ["c_attn"], "fan_in_fan_out": True}),
    "a head": (tiny_llama, "", {"target_modules": ["q_proj", "lm_head"]}),
    "bfloat16": (lambda: tiny_llama().bfloat16(), "", {}),
    "float16": (lambda: tiny_llama().half(), "", {}),
}


@pytest.mark.parametrize("case", SUMS)
def test_of_a_sum_it_has_the_names_of_its_adapters_and_is_not_rounded_to_the_type_of_the_base(
    case: str, tmp_path: Path
) -> None:
    made, prefix, settings = SUMS[case]
    base = without_prefix(saved(made(), tmp_path / "base"), prefix)
    for seed, name in enumerate("ab"):
        saved(with_lora(made(), seed, **settings), tmp_path / name)
    of_sum = f"{tmp_path / 'a'}@0.7+{tmp_path / 'b'}@0.3"
    write_at_scale(base, of_sum, 0.5, tmp_path / "out", form="adapter")
    found, one, two = (updates_of(with_adapter(made(), tmp_path / name)) for name in ("out", "a", "b"))
    assert found.keys() == one.keys()
    for name, update in found.items():
        assert update.dtype == torch.float32
        torch.testing.assert_close(update, 0.35 * one[name] + 0.15 * two[name], atol=1e-6, rtol=1e-5)


def trained_llama(folder: Path) -> list[Path]:
    base = saved(tiny_llama(), folder / "base")
    return [base, saved(trained(tiny_llama(), "q_proj"), folder / "tuned")]


def test_a_weight_that_the_class_of_the_config_does_not_have_is_refused(tmp_path: Path) -> None:
    for side in trained_llama(tmp_path):
        renamed_in(side, lambda name: name.replace("layers.1.self_attn.", "layers.1.own_"))
    said = r"changes 'model\.layers\.1\.own_q_proj\.weight', and the class"
    with pytest.raises(CheckpointError, match=said):
        mitigated(tmp_path, scale=1.0, form="adapter", rank=2)


def test_names_stay_where_transformers_has_no_class_for_the_config(tmp_path: Path) -> None:
    for side in trained_llama(tmp_path):
        (side / "config.json").unlink()
    mitigated(tmp_path, scale=1.0, form="adapter", rank=2)
    assert_alike(with_adapter(tiny_llama(), tmp_path / "out"), trained(tiny_llama(), "q_proj"))


NO_LINEAR_LAYERS = {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"}


def move(folder: Path, also: set[str]) -> None:
    """Save a base, and a fine-tuning of its projections and of the tensors in ``also``."""
    saved(tiny_llama(), folder / "base")
    tuned = moved(tiny_llama(), 0.1, 1, only=lambda name, parameter: "proj" in name or name in also)
    saved(tuned, folder / "tuned")


def test_tensors_that_are_no_linear_layers_are_told(tmp_path: Path) -> None:
    move(tmp_path, NO_LINEAR_LAYERS)
    with pytest.warns(UserWarning, match="leaves out 3 tensors") as told:
        mitigated(tmp_path, scale=0.5, form="adapter", rank=4, check=False)
    (text,) = (str(warning.message) for warning in told if "leaves out" in str(warning.message))
    assert all(name in text for name in NO_LINEAR_LAYERS)
    assert "--as checkpoint" in text


@pytest.mark.parametrize("form", ["adapter", "checkpoint"])
def test_nothing_left_out_is_no_warning(tmp_path: Path, form: str, recwarn: pytest.WarningsRecorder) -> None:
    move(tmp_path, set() if form == "adapter" else NO_LINEAR_LAYERS)
    mitigated(tmp_path, scale=0.5, form=form, rank=4 if form == "adapter" else None, check=False)
    assert not [warning for warning in recwarn if "leaves out" in str(warning.message)]
