"""What runtimes do with the settings of an adapter, and the weights that it saves in full: a table, from their code.

- vLLM 0.33.0: ``PEFTHelper`` (vllm/lora/peft_helper.py), ``from_local_checkpoint`` (lora_model.py),
  ``parse_fine_tuned_lora_name`` (utils.py), ``MaxLoRARanks`` (vllm/config/lora.py).
- SGLang 0.5.23: ``LoRAConfig`` (python/sglang/srt/lora/lora_config.py), ``LoRAAdapter`` (lora.py),
  ``validate_new_adapter`` (lora_manager.py), ``load_lora_weight_to_buffer`` (mem_pool.py).
- llama.cpp 0c1e57098: ``LoraModel`` (convert_lora_to_gguf.py), ``llama_adapter_lora_init_impl``
  (src/llama-adapter.cpp), ``get_scale`` (src/llama-adapter.h).
- transformers 5.24.0 with PEFT 0.21.2: ``PeftModel.from_pretrained`` (src/peft/peft_model.py).

Each is taken with the options that it has by default.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ..adapters.adapter import Adapter
from ..stored.names import is_embedding_or_head, scores_classes

RUNTIMES = {
    "vllm": "vLLM 0.33.0",
    "sglang": "SGLang 0.5.23",
    "llama.cpp": "llama.cpp 0c1e57098",
    "transformers": "transformers 5.24.0 with PEFT 0.21.2",
}
APPLIED, IGNORED, REFUSED, NOT_KNOWN = "applied", "ignored", "refused", "not known"
MERGE = "merge it into its base with PEFT's merge_and_unload, and serve the merged model"
WRITE_BASE = "write the base with these weights, resized where tokens were added, and serve that"


@dataclass(frozen=True)
class Part:
    """What a runtime does with a setting of an adapter, or with some of its weights.

    Attributes:
      what: the setting, or the kinds of module of the weights.
      outcome: "applied", "ignored", "refused" or "not known".
      reason: why it is not applied.
      way_out: what to do about it.
      weights: the modules that the weights are of, as the adapter names them; none for a setting.
    """

    what: str
    outcome: str
    reason: str = ""
    way_out: str = ""
    weights: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Setting:
    what: str
    outcomes: str  # of RUNTIMES in order: (a)pplied, (i)gnored or (r)efused
    has: Callable[[Adapter], Any]
    reason: str
    way_out: str = MERGE


def _value(key: str) -> Callable[[Adapter], Any]:
    return lambda adapter: adapter.config.get(key)


def _listed(why: str) -> Callable[[Adapter], bool]:
    return lambda adapter: any(why in reason for _, reason in adapter.ignored)


def _saved(choose: Callable[[str], bool]) -> Callable[[Adapter], bool]:
    return lambda adapter: any(choose(name) for name in adapter.replaced.tensors if name.endswith(".weight"))


def _started(*kinds: str) -> Callable[[Adapter], bool]:
    return lambda adapter: adapter.start is not None and adapter.start.name.lower().startswith(kinds)


def _has_pattern(adapter: Adapter) -> bool:
    return isinstance(adapter.config.get("target_modules"), str)


def _has_biases(adapter: Adapter) -> bool:
    return _listed("a bias")(adapter) or adapter.config.get("bias", "none") != "none"


def _is_of_tokens(name: str) -> bool:
    return is_embedding_or_head(name) and not scores_classes(name)


def _is_of_layers(name: str) -> bool:
    return "norm" not in name and not is_embedding_or_head(name)


def _ranks(adapter: Adapter) -> set[int]:
    return {update.rank for update in adapter.updates if update.rank is not None} | {_rank(adapter)}


def _rank(adapter: Adapter) -> int:
    return int(adapter.config.get("r") or 1)


_ALIEN = "only factors have a place, and this is a weight of its own"
_START = "training began on weights that {start} had changed, and the served base has the original ones"
_CONVERT = "convert it to a plain LoRA with PEFT's path_initial_model_for_weight_conversion"
_NEW_ALPHA = "write lora_alpha {alpha:.6g} and use_rslora false into adapter_config.json"
_NEW_B = "multiply each B of the pattern by its alpha / lora_alpha, and empty alpha_pattern"
_LIST = "write the names of the modules as a list into adapter_config.json"
_SETTINGS = (
    _Setting("file", "rrrr", lambda a: a.family != "PEFT", "it has no adapter_config.json"),
    _Setting("PEFT type", "rrra", lambda a: a.family == "PEFT" and a.peft_type != "LORA", "it is not LORA"),
    _Setting("DoRA", "rrra", _value("use_dora"), "the magnitudes beside the factors are not read"),
    _Setting("BD-LoRA", "rrra", _value("use_bdlora"), "factors in blocks have other shapes"),
    _Setting("aLoRA", "riaa", _value("alora_invocation_tokens"), "every token is adapted", "use llama.cpp"),
    _Setting(
        "rsLoRA", "aiia", _value("use_rslora"), "the scale is alpha / r, {root:.3g} times less", _NEW_ALPHA
    ),
    _Setting("alpha_pattern", "aiia", _value("alpha_pattern"), "lora_alpha scales every module", _NEW_B),
    _Setting("rank_pattern", "araa", _value("rank_pattern"), "every factor needs rank {r}"),
    _Setting("start", "riia", _started("pissa", "olora"), _START, _CONVERT),
    _Setting("start", "riii", _started("corda", "loftq"), _START, _CONVERT),
    _Setting("start", "iiii", _started("lora_ga"), _START, _CONVERT),
    _Setting("start", "rrra", _started("kasa"), "the diagonals beside the factors are not read"),
    _Setting("target_modules", "araa", _has_pattern, "the pattern '{targets}' is not read", _LIST),
    _Setting("biases", "rira", _has_biases, _ALIEN),
    _Setting("trained tokens", "rira", _listed("tokens"), _ALIEN),
    _Setting("saved class head", "aira", _saved(scores_classes), _ALIEN),
    _Setting("saved embeddings or head", "rira", _saved(_is_of_tokens), _ALIEN, WRITE_BASE),
    _Setting("saved norms", "rria", _saved(lambda name: "norm" in name), _ALIEN),
    _Setting("saved modules", "rrra", _saved(_is_of_layers), _ALIEN),
)
_MOST_RANK = 16  # of vLLM's max_lora_rank, by default
_VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


def settings_in(runtime: str, adapter: Adapter) -> Iterator[Part]:
    """Yield what a runtime does with each setting of an adapter that not every runtime reads."""
    r, start = _rank(adapter), adapter.start
    facts = {
        "r": r,
        "root": math.sqrt(r),
        "alpha": float(adapter.config.get("lora_alpha") or r) * math.sqrt(r),
        "start": start and start.name,
        "targets": str(adapter.config.get("target_modules"))[:30],
    }
    for setting in _SETTINGS:
        if setting.has(adapter):
            letter = setting.outcomes[list(RUNTIMES).index(runtime)]
            if letter == "a":
                yield Part(setting.what, APPLIED)
            else:
                outcome = IGNORED if letter == "i" else REFUSED
                reason, way_out = setting.reason.format(**facts), setting.way_out.format(**facts)
                yield Part(setting.what, outcome, reason, way_out)
    rank = max(_ranks(adapter))
    if runtime == "vllm" and rank > _MOST_RANK:
        enough = next((most for most in _VLLM_RANKS if most >= rank), None)
        way_out = f"start vLLM with --max-lora-rank {enough}" if enough else MERGE
        yield Part(f"rank {rank}", REFUSED, f"max_lora_rank is {_MOST_RANK} by default", way_out)
