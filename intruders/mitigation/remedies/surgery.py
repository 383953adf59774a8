"""The singular values of every update weighed anew by how the task's loss feels them (arXiv 2603.03995)."""

import fnmatch
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...checkpoints.pairing.pairing import PairedMatrix
from ...errors import SettingError
from ...linalg.low_rank import LowRank
from ...settings import setting
from ...system.digests import json_digest
from .changes import Change
from .remedy import Case, SpectralRemedy

# The projections that write to the residual stream, by the names that model families have for them. The paper takes
# o_proj and down_proj.
WRITING = ("*o_proj", "*down_proj", "*attn.c_proj", "*mlp.c_proj", "*output.dense", "*out_proj", "*fc2")

_UP, _DOWN = 1.25, 0.80
_TEMPERATURE = 0.35
_RATE_UP, _RATE_DOWN = 2.0, 0.2


@dataclass(frozen=True)
class Surgery(SpectralRemedy):
    """``W' = W0 + sum_i c_i d_i p_i q_i^T`` with ``sum_i c_i d_i = sum_i d_i``: D's singular values d_i weighed anew.

    c_i follows from the sensitivity ``g_i = p_i^T (dL/dD) q_i`` of the loss L on examples of the task:

    - ``abs_select`` (the default of the authors' code): 1.25 for the share of the directions with the largest |g_i|,
      0.80 for the share with the smallest.
    - ``smooth_abs``: a sigmoid of |g_i| between the two, around the median, at temperature 0.35 of the mean |g_i|.
    - ``grad_direction``: ``exp(-2 g_i)`` where g_i > 0 and ``exp(-0.2 g_i)`` where g_i < 0, |g_i| over its mean.
    - ``random_index``: as abs_select, for directions that are drawn; the paper's own control.

    Only the projections that write to the residual stream are changed. It weighs for the task: |g_i| does not tell
    whether a direction helps or harms. A rank-one update stays as it is.
    """

    name = "surgery"
    strength = "share"
    strengths = (0.1, 0.2, 0.4)
    source = "arXiv 2603.03995"
    in_words = "singular values of updates weighed by the task's loss ({mode})"

    share: float = setting(
        0.2, "Share of an update's directions to strengthen, and to weaken; 0 to 0.5.", least=0, most=0.5
    )
    mode: str = setting(
        "abs_select",
        "How sensitivities become weights.",
        choices=("abs_select", "smooth_abs", "grad_direction", "random_index"),
    )
    modules: tuple[str, ...] = setting(WRITING, "Patterns of the modules to change.", item="pattern")
    task: str | None = setting(None, "Task that the sensitivities are of.")
    examples: int = setting(128, "Number of its training examples that they are measured on.", least=1)
    seed: int = setting(0, "Seed of random_index.", least=0)
    # By matrix, in the descending order of D's singular values; intruders/measures/sensitivities.py measures them.
    sensitivities: Mapping[str, Sequence[float]] | None = field(default=None, repr=False, compare=False)

    def reaches(self, name: str) -> bool:
        return any(fnmatch.fnmatch(name.removesuffix(".weight"), pattern) for pattern in self.modules)

    def fitted(self, pairs: Sequence[PairedMatrix], config: Mapping[str, Any] | None) -> "Surgery":
        if not any(self.reaches(pair.name) for pair in pairs):
            raise SettingError(
                f"remedy 'surgery' found no tuned matrix named {', '.join(self.modules)}; choose another remedy"
            )
        if self.sensitivities is None:
            raise SettingError(
                "remedy 'surgery' has no sensitivities; expected those of the loss on a task; pass --task TASK"
            )
        return self

    def refusal(self, name: str, shape: tuple[int, int], rank: int | None) -> str | None:
        if rank is not None or not self.reaches(name):
            return None
        return (
            f"remedy 'surgery' cannot change '{name}', whose update has no low rank; "
            "pass an adapter, or choose another remedy"
        )

    def change(self, case: Case) -> Change:
        name = case.matrix.name
        if not self.reaches(name):
            return Change()
        measured = self.sensitivities or {}
        if name not in measured:
            raise SettingError(
                f"remedy 'surgery' has no sensitivities of '{name}'; measure them for these two models"
            )
        part = self.directions(case)
        values = part.values
        felt = torch.tensor(measured[name], dtype=torch.float64, device=values.device)[: len(values)]
        if len(values) < 2 or not bool(felt.any()):
            return Change()
        weighed = (values * self.weights(felt, name)).clamp_min(0)
        weighed = weighed * values.sum() / weighed.sum()
        return Change(share=0.0, added=LowRank(*part.with_values(weighed).factors(1.0)))

    def recorded(self) -> dict[str, Any]:
        """Return its settings, and a digest of the sensitivities, which the weights depend on as much."""
        record = super().recorded()
        if self.sensitivities is not None:
            felt = {name: list(own) for name, own in self.sensitivities.items()}
            record["sensitivities"] = json_digest(felt, 16)
        return record

    def weights(self, felt: Tensor, name: str) -> Tensor:
        """Return the factors on a matrix's singular values, from the sensitivity of the loss to each ``(r,)``."""
        if self.mode == "grad_direction":
            signed = felt / felt.abs().mean()
            return torch.exp(-torch.where(signed > 0, _RATE_UP, _RATE_DOWN) * signed)
        size = felt.abs()
        if self.mode == "smooth_abs":
            standardized = (size - size.median()) / (_TEMPERATURE * size.mean())
            return _DOWN + (_UP - _DOWN) * torch.sigmoid(standardized)
        if self.mode == "random_index":
            generator = torch.Generator().manual_seed(zlib.crc32(f"{self.seed} {name}".encode()))
            size = torch.rand(len(size), generator=generator, dtype=size.dtype).to(size.device)
        # At least one where there are two: the share of a small rank would be none.
        count = min(max(1, int(self.share * len(size))), len(size) // 2) if self.share > 0 else 0
        order = size.argsort()
        weights = torch.ones_like(size)
        weights[order[:count]] = _DOWN
        weights[order[len(order) - count :]] = _UP
        return weights
