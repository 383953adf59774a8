"""What a configuration tells of a model, and a configuration that is damaged."""

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from intruders.errors import CheckpointError
from intruders.measures.evaluate import evaluate
from intruders.measures.measure_settings import LossSettings, ScoreSettings
from intruders.models.given_model import GivenModel
from intruders.models.task_fit import is_masked
from intruders.training.finetune import finetune
from intruders.training.finetune_config import FinetuneConfig
from tests.checkpoints.renamed_families import SPEECH
from tests.tiny import character_tokenizer, short_task, short_texts


def test_a_configuration_tells_a_classifier(tmp_path: Path) -> None:
    assert not GivenModel(str(tmp_path)).is_classifier
    for architecture, is_one in (("BertForSequenceClassification", True), ("LlamaForCausalLM", False)):
        (tmp_path / "config.json").write_text(json.dumps({"architectures": [architecture]}))
        assert GivenModel(str(tmp_path)).is_classifier == is_one
    (tmp_path / "adapter_config.json").write_text('{"task_type": "SEQ_CLS"}')
    assert GivenModel(str(tmp_path)).is_classifier


@pytest.mark.parametrize("text", ['{"architectures": [', "[]", "\xff"])
def test_a_damaged_configuration_is_named(tmp_path: Path, text: str) -> None:
    for name in ("config.json", "adapter_config.json"):
        (tmp_path / name).write_bytes(text.encode("latin-1"))
        with pytest.raises(CheckpointError, match=rf"'.*/{name}' (is not valid JSON|contains a JSON list)"):
            _ = GivenModel(str(tmp_path)).is_classifier


@pytest.mark.parametrize("kind", ["t5", "bart", "whisper"])
def test_an_encoder_decoder_is_refused_by_all_that_measure(kind: str, tmp_path: Path) -> None:
    """transformers loads the decoder of a whole Whisper as a causal model, and a whole BART as a masked one."""
    tokenizer = character_tokenizer()
    tokens = {"vocab_size": len(tokenizer), "pad_token_id": 0, "decoder_start_token_id": 1}
    model: Any = {
        "t5": lambda: transformers.T5ForConditionalGeneration(
            transformers.T5Config(**tokens, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
        ),
        "bart": lambda: transformers.BartForConditionalGeneration(
            transformers.BartConfig(**{**SPEECH, **tokens}, max_position_embeddings=64)
        ),
        "whisper": lambda: transformers.WhisperForConditionalGeneration(
            transformers.WhisperConfig(**{**SPEECH, **tokens})
        ),
    }[kind]()
    base = str(tmp_path / "base")
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    text, task = str(short_texts(tmp_path / "text.jsonl", 4)), short_task(tmp_path)
    wanted = rf"is an encoder-decoder \({kind}\), whose text and answers are not measured"
    with pytest.raises(CheckpointError, match=wanted):
        evaluate(base, losses=LossSettings((text,)))
    with pytest.raises(CheckpointError, match=wanted):
        evaluate(base, scores=ScoreSettings(tasks=(task,)))
    with pytest.raises(CheckpointError, match=wanted):
        finetune(FinetuneConfig(base=base, task=task, out=str(tmp_path / "run"), steps=1))


def test_a_decoder_that_was_saved_alone_is_a_causal_model(tmp_path: Path) -> None:
    transformers.BartForCausalLM(transformers.BartConfig(**SPEECH)).save_pretrained(tmp_path)
    assert not is_masked(str(tmp_path))
