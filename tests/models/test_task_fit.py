"""What a configuration tells of a model, and a configuration that is damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from intruders.errors import CheckpointError
from intruders.models.task_fit import adapter_config, is_classifier


def test_a_configuration_tells_a_classifier(tmp_path: Path) -> None:
    assert not is_classifier(str(tmp_path), None)
    for architecture, is_one in (("BertForSequenceClassification", True), ("LlamaForCausalLM", False)):
        (tmp_path / "config.json").write_text(json.dumps({"architectures": [architecture]}))
        assert is_classifier(str(tmp_path), None) == is_one
    assert is_classifier(str(tmp_path), {"task_type": "SEQ_CLS"})
    (tmp_path / "adapter_config.json").write_text('{"task_type": "SEQ_CLS"}')
    assert adapter_config(str(tmp_path)) == {"task_type": "SEQ_CLS"}


@pytest.mark.parametrize("text", ['{"architectures": [', "[]", "\xff"])
def test_a_damaged_configuration_is_named(tmp_path: Path, text: str) -> None:
    for name in ("config.json", "adapter_config.json"):
        (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"'.*/config\.json' (is not valid JSON|contains a JSON list)"):
        is_classifier(str(tmp_path), None)
    with pytest.raises(
        CheckpointError, match=r"'.*/adapter_config\.json' (is not valid JSON|contains a JSON list)"
    ):
        adapter_config(str(tmp_path))
