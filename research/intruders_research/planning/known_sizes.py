"""Sizes of models and data sets that a plan is made from, so that nothing is loaded to make one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from intruders.checkpoints.stored.json_file import read_json_object
from intruders.errors import CheckpointError
from intruders.system.files import user_path


@dataclass(frozen=True)
class ModelSize:
    """The shape of a transformer."""

    layers: int
    width: int
    inner: int  # of the feed-forward part
    key_width: int  # of keys and values together over all heads; the width itself without grouped heads
    vocabulary: int
    is_gated: bool  # whether the feed-forward part has three matrices instead of two
    is_causal: bool

    @property
    def linear_shapes(self) -> list[tuple[int, int]]:
        """(m, n) of each linear matrix of a layer."""
        outward = [(self.inner, self.width)] * (2 if self.is_gated else 1)
        attention = [(self.width, self.width)] * 2 + [(self.key_width, self.width)] * 2
        return [*attention, *outward, (self.width, self.inner)]

    @property
    def linear(self) -> int:
        """Weights of all linear matrices."""
        return self.layers * sum(m * n for m, n in self.linear_shapes)

    @property
    def weights(self) -> int:
        """All weights, without the few of norms and biases."""
        return self.linear + self.vocabulary * self.width * (2 if self.is_causal else 1)

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> "ModelSize | None":
        """Read the shape of a config.json of BERT's or Llama's form; None for another."""
        try:
            width, heads = config["hidden_size"], config["num_attention_heads"]
            key_width = width * config.get("num_key_value_heads", heads) // heads
            architecture = str((config.get("architectures") or [""])[0])
            return cls(
                layers=config["num_hidden_layers"],
                width=width,
                inner=config["intermediate_size"],
                key_width=key_width,
                vocabulary=config["vocab_size"],
                is_gated=config.get("hidden_act") in ("silu", "swish"),
                is_causal="CausalLM" in architecture,
            )
        except (KeyError, TypeError):
            return None


# From the config.json of each.
_MODELS = {
    "FacebookAI/roberta-base": ModelSize(12, 768, 3072, 768, 50265, is_gated=False, is_causal=False),
    "meta-llama/Llama-2-7b-hf": ModelSize(32, 4096, 11008, 4096, 32000, is_gated=True, is_causal=True),
    "minilm-l6": ModelSize(6, 384, 1536, 384, 30522, is_gated=False, is_causal=False),
    "smollm2-135m": ModelSize(30, 576, 1536, 192, 49152, is_gated=True, is_causal=True),
}

# Rows of the training splits, from the pages of the data sets.
TRAIN_ROWS = {
    "mnli": 392_702,
    "qqp": 363_846,
    "sst2": 67_349,
    "siqa": 33_410,
    "winogrande": 40_398,
    "fever": 228_277,
    "rte": 2_490,
    "agnews": 120_000,
    "metamathqa": 395_000,
    "magicoder": 111_183,
}

# Mean tokens of a row over 2,000 training rows (RTE: all): with MiniLM's tokenizer, of word problems with SmolLM2's.
ROW_TOKENS = {"sst2": 13.5, "rte": 70.4, "agnews": 44.6, "word-problems": 70.0}
# Of a task that is not in the list.
ASSUMED_ROW_TOKENS = {"classification": 40.0, "completion": 300.0}


def model_size(base: str) -> ModelSize | None:
    """Return the shape of a model that is listed or is a local folder; None for another."""
    if base in _MODELS:
        return _MODELS[base]
    try:
        return ModelSize.of_config(read_json_object(user_path(base) / "config.json"))
    except CheckpointError:
        return None
