"""Updates of a LoRA kept below the size at which they bring an intruder: ``sigma_1(D) <= kappa theta``.

theta is the spiked threshold of the base's matrix at the audit's k and epsilon, as in the remedy `budget` of
`intruders mitigate` (after arXiv 2607.23711). Here it applies during training: either B is scaled back whenever the
update has grown beyond its budget, or each matrix has its own alpha, from the sizes that a pilot run reached.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

from intruders.audits.audit_settings import AS_USUAL
from intruders.checkpoints.adapters.adapter import Adapter
from intruders.checkpoints.pairing.open_sides import open_sides
from intruders.checkpoints.pairing.pair_sides import pair_sides
from intruders.errors import SettingError
from intruders.linalg.low_rank import LowRank
from intruders.linalg.spiked_threshold import spectrum_of, spiked_threshold
from intruders.models.base_model import base_model_location
from intruders.system.files import user_path
from intruders.training.finetune_config import FinetuneConfig

from .adapted_modules import ADAPTER, adapted_modules


def start(model: Any, config: FinetuneConfig) -> None:
    """Give every matrix in which the pilot exceeds the budget an alpha of its own; without a pilot, none."""
    if config.budget_pilot is None:
        return
    from peft.tuners.lora import LoraLayer
    from peft.utils.other import get_pattern_key

    kappa = 1.0 if config.budget is None else config.budget
    base = base_model_location(config.base)
    alphas = alpha_pattern(base, config.budget_pilot, kappa, config.lora_alpha)
    model.peft_config[ADAPTER].alpha_pattern = alphas
    for name, module in model.base_model.model.named_modules():
        if isinstance(module, LoraLayer):
            alpha = alphas.get(get_pattern_key(alphas, name), config.lora_alpha)
            module.scaling[ADAPTER] *= alpha / config.lora_alpha


def callbacks(model: nn.Module, config: FinetuneConfig) -> list[Any]:
    """Return the clamp, which acts before every look at the model too; none with a pilot."""
    if config.budget is None or config.budget_pilot is not None:
        return []
    looks = (config.audit_steps, config.eval_steps if config.match is not None else None, config.save_steps)
    return [BudgetClamp(model, config.budget, [config.budget_steps, *(n for n in looks if n)])]


def threshold(weight: torch.Tensor) -> float:
    """Return theta of a base matrix ``(m, n)`` at an audit's default k and epsilon; infinite if undefined."""
    k = min(AS_USUAL.k, *weight.shape)
    return spiked_threshold(spectrum_of(weight, k), k, AS_USUAL.epsilon)


class BudgetClamp(TrainerCallback):  # type: ignore[misc]
    """After every step that ``at`` names, ``B <- B min(1, kappa theta / sigma_1(scaling B A))`` in every module.

    ``at`` are numbers of steps: the clamp acts at all multiples of each, and at the last step.
    """

    def __init__(self, model: nn.Module, kappa: float, at: Sequence[int]) -> None:
        self._at = at
        self._budgets = [
            (module, kappa * threshold(module.weight.float())) for module in adapted_modules(model)
        ]

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step = state.global_step + 1  # Trainer counts it after the optimizer's callbacks
        if step == state.max_steps or any(step % every == 0 for every in self._at):
            self.clamp()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.clamp()  # a callback may have ended the training between two clamps

    @torch.no_grad()
    def clamp(self) -> None:
        for module, budget in self._budgets:
            size = largest_value(module.update)
            if size > budget:
                # In single precision B would be rounded to either side of the budget.
                module.b.mul_(budget / size * (1 - 1e-6))


def largest_value(update: LowRank) -> float:
    """Return ``sigma_1`` of one low-rank matrix ``B A``, from the r x r Gram matrices of its factors."""
    left, right = update.left.mT @ update.left, update.right @ update.right.mT
    values, vectors = torch.linalg.eigh(left)
    root = vectors * values.clamp_min(0).sqrt()  # left = root root^T
    return math.sqrt(max(0.0, float(torch.linalg.eigvalsh(root.mT @ right @ root)[-1])))


def alpha_pattern(base: str, pilot: str, kappa: float, alpha: float) -> dict[str, float]:
    """Return ``alpha min(1, kappa theta / sigma_1(D))`` by module, with D the update of a pilot run's adapter.

    Modules whose pilot stayed within the budget are omitted: they keep ``alpha``.

    Raises:
      SettingError: the pilot is not an adapter.
      PairingError: the pilot belongs to another base.
    """
    before, opened = open_sides(base, user_path(pilot))
    if not isinstance(opened, Adapter):
        raise SettingError(
            f"budget_pilot is {pilot!r}, which is not an adapter; expected the folder of one; pass that of a pilot run"
        )
    alphas = {}
    for pair in pair_sides(before, opened).pairs:
        loaded = pair.load()
        if loaded is None:
            continue
        wide = loaded.widened().double()
        update = wide.update
        size = (
            largest_value(update)
            if isinstance(update, LowRank)
            else float(torch.linalg.matrix_norm(update.matrix, 2))
        )
        share = kappa * threshold(wide.base) / size if size > 0 else 1.0
        if share < 1:
            alphas[pair.name.removesuffix(".weight")] = alpha * share
    return alphas
