"""A base beside a model in memory, and experts one by one and stacked: what transformers loads is the truth."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from intruders.checkpoints.opening.open import open_checkpoint
from intruders.checkpoints.pairing.in_memory import BaseInMemory
from intruders.checkpoints.pairing.names_of_base import positions_in_stacks, with_experts_as
from intruders.checkpoints.stored.checkpoint import Checkpoint
from intruders.checkpoints.stored.matrices import MatrixView, put_back, selected_matrices
from intruders.checkpoints.stored.names import match_names
from intruders.checkpoints.stored.selection import EVERY_MATRIX
from intruders.errors import PairingError
from intruders.models.loading import load_model
from tests.checkpoints.models import moved_mixtral, refused, tiny_gpt2
from tests.checkpoints.renamed_families import FAMILIES

EXPERT = "model.layers.0.block_sparse_moe.experts.1.w3.weight"


def every_matrix(checkpoint: Checkpoint) -> dict[str, MatrixView]:
    return {view.name: view for view in selected_matrices(checkpoint, EVERY_MATRIX)}


def held(folder: str, state: dict[str, torch.Tensor]) -> BaseInMemory:
    return BaseInMemory.of(
        open_checkpoint(folder), {name: tuple(tensor.shape) for name, tensor in state.items()}
    )


@pytest.mark.parametrize("kind", ["experts one by one", "input first"])
def test_every_matrix_is_written_where_transformers_reads_it(kind: str, tmp_path: Path) -> None:
    """All matrices of another model, put into a loaded one, make it compute as that one."""
    if kind == "input first":
        for name, seed in (("base", 0), ("tuned", 1)):
            model: Any = tiny_gpt2(seed)
            model.save_pretrained(tmp_path / name)
        base, tuned = str(tmp_path / "base"), str(tmp_path / "tuned")
    else:
        base, tuned, _ = moved_mixtral(tmp_path)
    whole: Any = load_model(base, "causal").eval()
    state = dict(whole.state_dict())
    matrices, other = held(base, state), open_checkpoint(tuned)
    own = every_matrix(other)
    assert matrices.views.keys() == own.keys()
    for name, view in own.items():
        key = matrices.key_of_matrix(name)
        assert key is not None
        assert torch.equal(
            matrices.read(name), every_matrix(matrices.base)[name].read(matrices.base.tensors[name])
        )
        put_back(matrices.views[name], state[key], view.read(other.tensors[view.tensor]))
    for name in [name for name in other.names() if name in state and name not in own]:
        state[name].copy_(other.read(name))
    wanted: Any = load_model(tuned, "causal").eval()
    for key, tensor in wanted.state_dict().items():
        assert torch.equal(state[key], tensor)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_of_a_file_is_in_the_model_that_was_loaded_of_it(family: str, tmp_path: Path) -> None:
    model: Any = FAMILIES[family]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    model.save_pretrained(tmp_path)
    state = dict(model.state_dict())
    matrices = held(str(tmp_path), state)
    for name, view in every_matrix(matrices.base).items():
        assert torch.equal(matrices.read(name), view.read(matrices.base.tensors[view.tensor]))
    assert list(matrices.changed(matrices.base.names(), state)) == []
    moved = {name: tensor + 1 for name, tensor in state.items()}
    found = {each.name: each.part for each in matrices.changed(matrices.base.names(), moved)}
    assert found.keys() == set(matrices.base.names())
    for name, part in found.items():
        assert torch.equal(part, matrices.base.read(name) + 1), name
    # The other way round, a file beside the model in memory as its base.
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    file = with_experts_as(shapes, matrices.base)
    name_of = match_names(shapes, file.shapes()).base_of
    assert name_of.keys() == set(file.names())
    assert all(torch.equal(file.read(name), state[key]) for name, key in name_of.items())
    for name, position in positions_in_stacks(matrices.base, file).items():
        assert torch.equal(position.cut(file.tensors[position.tensor]).read(), matrices.base.read(name))


def test_a_tensor_under_a_name_that_is_not_known_is_refused(tmp_path: Path) -> None:
    """It would be taken for one that was not tuned."""
    base, _, model = moved_mixtral(tmp_path)
    state = {name.replace("o_proj", "out"): tensor for name, tensor in model.state_dict().items()}
    matrices = held(base, state)
    name = "model.layers.0.self_attn.o_proj.weight"
    for asked in (lambda: list(matrices.changed([name], state)), lambda: matrices.required_key(name)):
        with refused(r"o_proj\.weight' of .* under another name", PairingError):
            asked()
    with refused("has no weight 'elsewhere'; pass the base", PairingError):
        matrices.required_key("elsewhere")


def test_an_incomplete_set_of_experts_stays_as_it_is(tmp_path: Path) -> None:
    base, _, _ = moved_mixtral(tmp_path)
    whole = open_checkpoint(base)
    lacking = {name: stored for name, stored in whole.tensors.items() if name != EXPERT}
    checkpoint = replace(whole, tensors=lacking)
    assert with_experts_as(["model.layers.0.mlp.experts.down_proj"], checkpoint) is checkpoint
    positions = positions_in_stacks(checkpoint, checkpoint)
    assert {name: position.tensor for name, position in positions.items()} == {name: name for name in lacking}
