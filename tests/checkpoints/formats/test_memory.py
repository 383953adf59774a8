"""Models in memory under wrappers: the names are those that the model has without them."""

from typing import Any

import pytest
from torch import nn
from torch._dynamo.eval_frame import OptimizedModule

import intruders
from intruders.checkpoints.formats.memory import trained_matrices
from intruders.checkpoints.opening.open import open_checkpoint
from tests.checkpoints.models import tiny_llama, with_lora


def compiled(module: nn.Module) -> nn.Module:
    """What torch.compile returns, which the tests turn off."""
    whole: nn.Module = OptimizedModule(module, lambda function: function)
    assert any(name.startswith("_orig_mod.") for name in whole.state_dict())
    return whole


def compiled_by_layer(model: Any) -> nn.Module:
    inner = model.model
    while not hasattr(inner, "layers"):
        inner = inner.model
    for index, layer in enumerate(inner.layers):
        inner.layers[index] = compiled(layer)
    whole: nn.Module = model
    return whole


@pytest.mark.parametrize("by_layer", [False, True])
def test_a_compiled_model_has_the_names_of_the_model(by_layer: bool) -> None:
    names = set(open_checkpoint(tiny_llama()).names())
    model = compiled_by_layer(tiny_llama()) if by_layer else compiled(tiny_llama())
    assert set(open_checkpoint(model).names()) == names
    assert set(open_checkpoint(model.state_dict()).names()) == names
    assert trained_matrices(model).keys() <= names


@pytest.mark.parametrize("by_layer", [False, True])
def test_an_audit_of_a_compiled_model_with_an_adapter_is_that_of_the_model(by_layer: bool) -> None:
    def model() -> nn.Module:
        return with_lora(lora_alpha=8, target_modules=["q_proj", "up_proj"])

    expected = intruders.audit(model())
    audit = intruders.audit(compiled_by_layer(model()) if by_layer else compiled(model()))
    assert [one.name for one in audit.matrices] == [one.name for one in expected.matrices]
    assert audit.intruders == expected.intruders
    both = intruders.audit(compiled(tiny_llama()), compiled(model()), include=["model.layers.0.*"])
    assert {one.name for one in both.matrices} == {
        "model.layers.0.mlp.up_proj.weight",
        "model.layers.0.self_attn.q_proj.weight",
    }
