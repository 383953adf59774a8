"""Tiny random models of families whose tensors transformers names otherwise in memory than in a file."""

from collections.abc import Callable
from functools import partial
from typing import Any

from .models import of_class

WIDTHS = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = {**WIDTHS, "vocab_size": 96, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
IMAGE = {**WIDTHS, "image_size": 16, "patch_size": 8}
STAGES = {
    "image_size": 16,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [1, 1],
    "num_heads": [2, 2],
    "window_size": 2,
}
SPEECH = {
    "vocab_size": 64,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "num_mel_bins": 8,
    "max_source_positions": 20,
    "max_target_positions": 20,
    **dict.fromkeys(["pad_token_id", "bos_token_id", "decoder_start_token_id"], 1),
    "eos_token_id": 2,
}
MIXERS = {
    "layers_block_type": ["moe", "attention"],
    "n_routed_experts": 4,
    "moe_shared_expert_intermediate_size": 24,
}


def _causal(kind: str, **settings: Any) -> Callable[[], Any]:
    def made() -> Any:
        import transformers

        values = {**TEXT, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, **settings}
        config = transformers.AutoConfig.for_model(kind, **values)
        return transformers.AutoModelForCausalLM.from_config(config)

    return made


def _of_class(*classes: str, **settings: Any) -> Callable[[], Any]:
    return partial(of_class, *classes, **settings)


FAMILIES: dict[str, Callable[[], Any]] = {
    "bert": _of_class("BertForSequenceClassification", "BertConfig", vocab_size=60, **WIDTHS),
    "gpt_neox": _causal("gpt_neox", tie_word_embeddings=False),
    "exaone": _causal("exaone"),
    "phimoe": _causal("phimoe", **EXPERTS),
    "granitemoe": _causal("granitemoe", **EXPERTS),
    "qwen2_moe": _causal("qwen2_moe", **EXPERTS, shared_expert_intermediate_size=24),
    "nemotron_h": _causal("nemotron_h", **EXPERTS, **MIXERS),
    "vit": _of_class("ViTForImageClassification", "ViTConfig", **IMAGE),
    "beit": _of_class("BeitForImageClassification", "BeitConfig", **IMAGE, use_relative_position_bias=True),
    "swin": _of_class("SwinForImageClassification", "SwinConfig", **STAGES),
    "segformer": _of_class(
        "SegformerForImageClassification",
        "SegformerConfig",
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[16, 32],
        patch_sizes=[3, 3],
        strides=[2, 2],
        num_attention_heads=[2, 2],
        mlp_ratios=[2, 2],
    ),
    "dinov2": _of_class("Dinov2ForImageClassification", "Dinov2Config", **IMAGE, mlp_ratio=2),
    "whisper": _of_class("WhisperForConditionalGeneration", "WhisperConfig", **SPEECH),
    "wav2vec2": _of_class(
        "Wav2Vec2ForCTC",
        "Wav2Vec2Config",
        vocab_size=40,
        **WIDTHS,
        conv_dim=[16],
        conv_stride=[5],
        conv_kernel=[10],
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    ),
    "internvl": _of_class(
        "InternVLForConditionalGeneration",
        "InternVLConfig",
        vision_config={**IMAGE, "image_size": [16, 16], "patch_size": [8, 8]},
        text_config={**TEXT, "model_type": "qwen2", "tie_word_embeddings": False},
        image_token_id=90,
    ),
}

# Of these transformers also cuts or joins tensors, which no other name tells.
FAMILIES_CUT: dict[str, Callable[[], Any]] = {
    "nomic_bert": _of_class(
        "NomicBertModel", "NomicBertConfig", vocab_size=96, max_position_embeddings=64, **WIDTHS
    )
}
