"""Full fine-tuning and the LoRA family: what is trained, from where it starts, and by which optimizer."""

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..checkpoints.adapters.adapter import fields_of_base
from ..checkpoints.adapters.peft_types import changes_the_base
from ..checkpoints.stored.matrices import holds_experts
from ..errors import SettingError
from ..models.given_model import GivenModel
from ..models.loading import heads
from ..models.put_on_base import named_base_note
from ..system.files import user_path
from ..system.plugins import METHODS, needed_plugin

if TYPE_CHECKING:
    from ..data.task import Kind
    from .finetune_config import FinetuneConfig


# What PEFT computes an update of the low-rank weights by.
_OF_SCALE = ("lora_alpha", "use_rslora", "use_dora", "alpha_pattern", "rank_pattern")


def prepare(model: nn.Module, config: "FinetuneConfig", kind: "Kind") -> nn.Module:
    """Make only the parameters of ``config.method`` trainable; PEFT wraps the model unless the method is full."""
    if config.method != "full":
        return _adapted(model, config, kind)
    model.requires_grad_(config.train_all)
    for module in linear_modules(model).values():
        module.weight.requires_grad_(True)
    for name, parameter in model.named_parameters():
        if holds_experts(name, tuple(parameter.shape)):
            parameter.requires_grad_(True)
    for head in heads(model).values():
        head.requires_grad_(True)
    return model


def plugins_for(config: "FinetuneConfig") -> list[Any]:
    """Return the plugins that the method and its budget ask for; SettingError if one of them is not installed."""
    asked = {config.method: "method"} if config.kind_of_method.is_plugin else {}
    budgets = [name for name in ("budget", "budget_pilot") if getattr(config, name) is not None]
    if budgets and config.method != "full":  # which ignores all settings of adapters
        asked["budget"] = budgets[0]
    return [
        needed_plugin(METHODS, plugin, f"{setting} is {getattr(config, setting)!r}")
        for plugin, setting in asked.items()
    ]


def go_on_from(model: Any, adapter: str, base: str) -> None:
    """Put the low-rank weights of a saved adapter into ``model``, which is of ``base``; a head starts again.

    Warns if the adapter names another base: its weights are then no update of this one. Raises SettingError if it has
    other matrices than the model, or another factor that scales them.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        saved = load_file(user_path(adapter) / "adapter_model.safetensors")
    except (OSError, SafetensorError) as error:
        raise SettingError(f"start_from {adapter!r} cannot be read as a PEFT adapter: {error}") from error
    saved = {name: value for name, value in saved.items() if ".lora_" in name}
    state = get_peft_model_state_dict(model)
    own = {name: value.shape for name, value in state.items() if ".lora_" in name}
    different = sorted(own.keys() ^ saved.keys()) or sorted(n for n in own if saved[n].shape != own[n])
    if different:
        raise SettingError(
            f"start_from {adapter!r} has other matrices than this run ({different[0]}); "
            "pass the same base, method, rank and target_modules"
        )
    given = GivenModel(adapter, base)
    then, here = given.adapter.values if given.adapter else {}, model.peft_config["default"].to_dict()
    for name in _OF_SCALE:
        before, now = then.get(name), here.get(name)
        if (before or 0) != (now or 0):  # what is not in a file, and what is empty, is off
            raise SettingError(
                f"start_from {adapter!r} has {name} {before!r}, and this run has {now!r}, which would make another "
                "update of its weights; pass the same method, rank, alpha and budget_pilot"
            )
    if named_base_note(given):
        named = then["base_model_name_or_path"]
        warnings.warn(
            f"start_from {adapter!r} names {str(named)!r} as its base, and this run trains {base!r}; if these are "
            "other weights, the adapter was learned for another model",
            stacklevel=2,
        )
    set_peft_model_state_dict(model, state | saved)


def make_optimizer(model: nn.Module, config: "FinetuneConfig") -> torch.optim.Optimizer | None:
    """Return the optimizer of the methods with one of their own; None leaves Trainer's AdamW."""
    if config.method not in ("lora+", "lora-fa"):
        return None
    from peft import optimizers

    optimizer: torch.optim.Optimizer
    if config.method == "lora+":
        of_b = {"loraplus_lr_ratio": config.loraplus_lr_ratio, "loraplus_weight_decay": config.weight_decay}
        optimizer = optimizers.create_loraplus_optimizer(model, torch.optim.AdamW, lr=config.lr, **of_b)
    else:
        scale = {"r": config.rank, "lora_alpha": config.lora_alpha, "weight_decay": config.weight_decay}
        optimizer = optimizers.create_lorafa_optimizer(model, lr=config.lr, **scale)
    return optimizer


def save_model(model: Any, tokenizer: Any, folder: Path, start: Path | None) -> None:
    """Write the model or adapter so that it belongs to the base as it is on disk, and its tokenizer.

    An adapter whose method changed the base becomes W0 + D of twice the rank by PEFT's own conversion, which
    writes low-rank weights alone: the trained head is added to them.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import load_file, save_file

    tokenizer.save_pretrained(folder)
    if start is None:
        model.save_pretrained(folder)
    else:
        whole = {name: value.contiguous() for name, value in get_peft_model_state_dict(model).items()}
        model.save_pretrained(folder, path_initial_model_for_weight_conversion=str(start))
        file = folder / "adapter_model.safetensors"
        head = {name: value for name, value in whole.items() if ".lora_" not in name}
        save_file(load_file(file) | head, file, metadata={"format": "pt"})
    # PEFT's model card is a form of empty headings; the record of the run says more.
    (folder / "README.md").unlink(missing_ok=True)


def linear_modules(model: Any) -> dict[str, nn.Linear]:
    """Return linear (and GPT-2's Conv1D) modules by name, without output embeddings and classification heads."""
    from transformers.pytorch_utils import Conv1D

    output = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    tops = [top for top in (output, *heads(model).values()) if top is not None]
    left_out = {id(module) for top in tops for module in top.modules()}
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and id(module) not in left_out
    }


def _adapted(model: nn.Module, config: "FinetuneConfig", kind: "Kind") -> nn.Module:
    from peft import LoraConfig, get_peft_model

    targets, alpha = _targets(config.target_modules), config.lora_alpha
    if config.starts_from_changed_base or config.init_a == "orthonormal":
        # Orthonormal rows and SVD starts do not exist above a matrix's smaller side.
        width, narrowest = min(
            (min(module.weight.shape), name) for name, module in linear_modules(model).items()
        )
        if config.rank > width:
            raise SettingError(
                f"rank is {config.rank}, but {narrowest} is only {width} wide and method {config.method!r} starts "
                "from that many directions of it; lower the rank"
            )
    try:
        adapted: nn.Module = get_peft_model(
            model,
            LoraConfig(
                task_type="SEQ_CLS" if kind == "classification" else "CAUSAL_LM",
                r=config.rank,
                # PEFT types alpha so in adapter_config.json.
                lora_alpha=int(alpha) if alpha.is_integer() else alpha,
                lora_dropout=config.dropout,
                target_modules=targets,
                exclude_modules=list(getattr(model, "newly_initialized", ())) or None,
                modules_to_save=list(heads(model)) or None,
                use_rslora=config.method == "rslora",
                use_dora=config.method == "dora",
                init_lora_weights=config.method if changes_the_base(config.method) else True,
            ),
        )
    except ValueError as error:
        if "target modules" not in str(error).lower():
            raise
        raise SettingError(
            f"target_modules {config.target_modules!r} match no module of {config.base!r}; "
            "expected all-linear or names such as q_proj"
        ) from error
    named = fields_of_base(config.base)
    if "revision" in named:  # which was loaded from a folder of this machine, and PEFT has noted that
        of_peft: Any = adapted.peft_config
        for name, value in named.items():
            setattr(of_peft["default"], name, value)
    for plugin in plugins_for(config):
        plugin.start(adapted, config)
    if config.kind_of_method.freezes_a:
        _freeze_a(adapted, orthonormal=config.init_a == "orthonormal")
    return adapted


def _targets(given: str | Sequence[str]) -> str | list[str]:
    """Return the modules as PEFT takes them: it reads any text but all-linear as a pattern of complete paths."""
    if not isinstance(given, str):
        return list(given)
    names = [name.strip() for name in given.split(",") if name.strip()]
    # The name of a module, or its path. Dots in a row are those of a pattern.
    are_names = names and all(re.fullmatch(r"[\w-]+(\.[\w-]+)*", name) for name in names)
    if given.lower() != "all-linear" and are_names:
        return names
    try:
        re.compile(given)
    except re.error as error:
        raise SettingError(
            f"target_modules is {given!r}, which is not a regular expression ({error}); expected all-linear, names "
            "such as q_proj, or a pattern of complete paths; use '.*q_proj' for every path that ends so"
        ) from error
    return given


def _freeze_a(model: nn.Module, *, orthonormal: bool) -> None:
    from peft.tuners.lora import LoraLayer

    for module in model.modules():
        if isinstance(module, LoraLayer):
            for a in module.lora_A.values():
                if orthonormal:
                    nn.init.orthogonal_(a.weight)  # (r, n): rows of length 1, at right angles
                a.weight.requires_grad_(False)
