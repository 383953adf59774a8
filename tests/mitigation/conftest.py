"""A base with the spectra of trained weights, and an adapter of it whose leading directions are intruders."""

import copy
from pathlib import Path

import pytest
from torch import Tensor, nn

from tests.checkpoints.models import merged_weights
from tests.mitigation.hot import hot_llama, hot_sides, medium_llama, wide_spectrum


@pytest.fixture(scope="module")
def base() -> nn.Module:
    return wide_spectrum(medium_llama())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, base: nn.Module) -> Path:
    path = tmp_path_factory.mktemp("models")
    hot_sides(path, base, gain=1.2)
    return path


@pytest.fixture(scope="module")
def tuned(base: nn.Module) -> dict[str, Tensor]:
    return merged_weights(hot_llama(model=copy.deepcopy(base), gain=1.2))
