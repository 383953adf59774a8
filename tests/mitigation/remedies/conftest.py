"""A model of four layers with a rank-3 adapter and with a full fine-tuning, to apply every remedy to."""

import copy
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor, nn

from intruders.audits.audit_settings import Compute
from intruders.mitigation.remedies.remedy import Remedy
from tests.checkpoints.models import moved, saved, tiny_llama
from tests.mitigation.hot import hot_sides, medium_llama, merged_from, mitigated, wide_spectrum

RANK = 3
NO_CACHE = Compute(cache=False)


@dataclass(frozen=True)
class Tuned:
    """A base, what was made of it, and how to apply a remedy; everything in double precision."""

    folder: Path
    model: nn.Module
    base: dict[str, Tensor]
    tuned: dict[str, Tensor]  # as PEFT merges the adapter, or as it was saved

    @property
    def matrices(self) -> list[str]:
        return [name for name in self.base if "_proj." in name]

    def update(self, name: str) -> Tensor:
        return self.tuned[name] - self.base[name]

    def after(self, remedy: Remedy, out: Path, **settings: object) -> dict[str, Tensor]:
        """Every weight of what ``mitigate`` writes, as PEFT merges it or as it is in the file."""
        mitigated(self.folder, remedy=remedy, out=out, compute=NO_CACHE, **settings)
        if (out / "adapter_config.json").exists():
            return _wide(merged_from(out, copy.deepcopy(self.model)))
        return _wide(load_file(out / "model.safetensors"))


@pytest.fixture(scope="session")
def by_adapter(tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    folder, model = tmp_path_factory.mktemp("adapter"), tiny_llama(num_hidden_layers=4)
    before, after = hot_sides(folder, model, r=RANK, lora_alpha=5, gain=0.8)
    return Tuned(folder, model, _wide(before), _wide(after))


@pytest.fixture(scope="session")
def of_large_matrices(tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    """An adapter with many intruders on a base with the spectra of trained weights, for the Krylov method."""
    folder, model = tmp_path_factory.mktemp("large"), wide_spectrum(medium_llama())
    before, after = hot_sides(folder, model, gain=1.2)
    return Tuned(folder, model, _wide(before), _wide(after))


@pytest.fixture(scope="session")
def in_full(tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    folder, model = tmp_path_factory.mktemp("full"), tiny_llama(num_hidden_layers=4)
    saved(model, folder / "base")
    tuned = moved(copy.deepcopy(model), 0.05, 5)
    saved(tuned, folder / "tuned")
    return Tuned(folder, model, _wide(model.state_dict()), _wide(tuned.state_dict()))


@pytest.fixture(params=["by_adapter", "in_full"])
def of_each(request: pytest.FixtureRequest) -> Tuned:
    """The adapter, and then the full fine-tuning."""
    found: Tuned = request.getfixturevalue(request.param)
    return found


def _wide(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.double().clone() for name, tensor in state.items()}
