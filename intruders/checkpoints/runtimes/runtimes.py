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
from collections.abc import Iterator
from dataclasses import dataclass

from ..adapters.adapter import Adapter
from ..stored.names import is_embedding_or_head, scores_classes

RUNTIMES = {
    "vllm": "vLLM 0.33.0",
    "sglang": "SGLang 0.5.23",
    "llama.cpp": "llama.cpp 0c1e57098",
    "transformers": "transformers 5.24.0 with PEFT 0.21.2",
}
APPLIED, IGNORED, REFUSED, NOT_KNOWN = "applied", "ignored", "refused", "not known"
_OUTCOMES = {"a": APPLIED, "i": IGNORED, "r": REFUSED}
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
      weights: their modules, as the adapter names them; none for a setting.
    """

    what: str
    outcome: str
    reason: str = ""
    way_out: str = ""
    weights: tuple[str, ...] = ()


_ALIEN = "only factors have a place, and this is a weight of its own"
_START = "training began on weights that {start} had changed, and the served base has the original ones"
_CONVERT = "convert it to a plain LoRA with PEFT's path_initial_model_for_weight_conversion"
_NEW_ALPHA = "write lora_alpha {alpha:.6g} and use_rslora false into adapter_config.json"
_NEW_B = "multiply each B of the pattern by its alpha / lora_alpha, and empty alpha_pattern"
_LIST = "write the names of the modules as a list into adapter_config.json"
# Of every setting: what RUNTIMES do, in order ((a)pplied, (i)gnored or (r)efused), the reason and the way out.
_SETTINGS = {
    "file": ("rrrr", "it has no adapter_config.json", MERGE),
    "PEFT type": ("rrra", "it is not LORA", MERGE),
    "DoRA": ("rrra", "the magnitudes beside the factors are not read", MERGE),
    "BD-LoRA": ("rrra", "factors in blocks have other shapes", MERGE),
    "KaSA": ("rrra", "the diagonals beside the factors are not read", MERGE),
    "aLoRA": ("riaa", "every token is adapted", "use llama.cpp"),
    "rsLoRA": ("aiia", "the scale is alpha / r, {root:.3g} times less", _NEW_ALPHA),
    "rsLoRA of several ranks": ("aiia", "the scale is alpha / rank", MERGE),
    "alpha_pattern": ("aiia", "lora_alpha scales every module", _NEW_B),
    "rank_pattern": ("araa", "every factor needs rank {r}", MERGE),
    "PiSSA or OLoRA start": ("riia", _START, _CONVERT),
    "CorDA or LoftQ start": ("riii", _START, _CONVERT),
    "LoRA-GA start": ("iiii", _START, _CONVERT),
    "target_modules": ("araa", "the pattern '{targets}' is not read", _LIST),
    "biases": ("rira", _ALIEN, MERGE),
    "trained tokens": ("rira", _ALIEN, MERGE),
    "saved class head": ("aira", _ALIEN, MERGE),
    "saved embeddings or head": ("rira", _ALIEN, WRITE_BASE),
    "saved norms": ("rria", _ALIEN, MERGE),
    "saved modules": ("rrra", _ALIEN, MERGE),
}
_MOST_RANK = 16  # of vLLM's max_lora_rank, by default
_VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


def settings_in(runtime: str, adapter: Adapter) -> Iterator[Part]:
    """Yield what a runtime does with each setting of an adapter that not every runtime reads."""
    config, start = adapter.config, (adapter.start or "").lower()
    saved = [name for name in adapter.replaced.tensors if name.endswith(".weight")]
    tokens = [name for name in saved if is_embedding_or_head(name) and not scores_classes(name)]
    listed = " ".join(why for _, why in adapter.ignored)
    has = {
        "file": adapter.family != "PEFT",
        "PEFT type": adapter.family == "PEFT" and adapter.peft_type != "LORA",
        "DoRA": config.get("use_dora"),
        "BD-LoRA": config.get("use_bdlora"),
        "KaSA": start == "kasa",
        "aLoRA": config.get("alora_invocation_tokens"),
        "rsLoRA": config.get("use_rslora") and not config.get("rank_pattern"),
        "rsLoRA of several ranks": config.get("use_rslora") and config.get("rank_pattern"),
        "alpha_pattern": config.get("alpha_pattern"),
        "rank_pattern": config.get("rank_pattern"),
        "PiSSA or OLoRA start": start.startswith(("pissa", "olora")),
        "CorDA or LoftQ start": start.startswith(("corda", "loftq")),
        "LoRA-GA start": start.startswith("lora_ga"),
        "target_modules": isinstance(config.get("target_modules"), str),
        "biases": "a bias" in listed or config.get("bias", "none") != "none",
        "trained tokens": "tokens" in listed,
        "saved class head": any(map(scores_classes, saved)),
        "saved embeddings or head": tokens,
        "saved norms": any("norm" in name for name in saved),
        "saved modules": any("norm" not in name and not is_embedding_or_head(name) for name in saved),
    }
    r = int(config.get("r") or 1)
    alpha, root = float(config.get("lora_alpha") or r), math.sqrt(r)
    values = {"r": r, "root": root, "alpha": alpha * root, "start": start}
    values["targets"] = str(config.get("target_modules"))[:30]
    for what, (outcomes, reason, way_out) in _SETTINGS.items():
        outcome = _OUTCOMES[outcomes[list(RUNTIMES).index(runtime)]]
        if has[what] and outcome == APPLIED:
            yield Part(what, APPLIED)
        elif has[what]:
            yield Part(what, outcome, reason.format(**values), way_out.format(**values))
    rank = max([r, *(update.rank or r for update in adapter.updates)])
    if runtime == "vllm" and rank > _MOST_RANK:
        enough = next((most for most in _VLLM_RANKS if most >= rank), None)
        way_out = f"start vLLM with --max-lora-rank {enough}" if enough else MERGE
        yield Part(f"rank {rank}", REFUSED, f"max_lora_rank is {_MOST_RANK} by default", way_out)
