"""Models of the hub are measured as the same files in a folder: adapters with base and tokenizer, and classifiers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from intruders.checkpoints.writing.training_record import data_seed_of, keep_training
from intruders.measures.evaluate import evaluate
from intruders.measures.evaluation import Evaluation
from intruders.measures.measure_settings import LossSettings
from intruders.models.tuned_model import can_go_on, open_language_model
from tests.experiments.healed_models import adapter_of
from tests.hub_cache import hub_with_base, keep, snapshot
from tests.tiny import save_bert

TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{% endfor %}"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base of two revisions, and an adapter of the older one with a chat template of its own."""
    hub, older = hub_with_base(tmp_path, monkeypatch), tmp_path / "older"
    adapter = Path(adapter_of(older, tmp_path / "adapter", ("q_proj", "down_proj")))
    config = json.loads((adapter / "adapter_config.json").read_text())
    config |= {"base_model_name_or_path": "org/base", "revision": "v1"}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    tokenizer = AutoTokenizer.from_pretrained(older)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(adapter)
    keep(adapter, hub, "org/adapter", "main", "c" * 40)
    return hub


def losses_of(model: str, base: str | None, folder: Path) -> Evaluation:
    text = folder / "text.txt"
    text.write_text("Some words of text.\n\nAnd others, in a second paragraph.", encoding="utf-8")
    return evaluate(model, base=base, losses=LossSettings((str(text),)))


def test_an_adapter_is_measured_on_the_revision_that_it_names(hub: Path, tmp_path: Path) -> None:
    by_id = losses_of("org/adapter", None, tmp_path)
    by_path = losses_of(str(tmp_path / "adapter"), str(tmp_path / "older"), tmp_path)
    assert by_id.losses[0].loss == by_path.losses[0].loss
    on_main = losses_of(str(tmp_path / "adapter"), str(tmp_path / "main"), tmp_path)
    assert on_main.losses[0].loss != by_path.losses[0].loss


def test_an_adapter_is_compared_with_the_base_that_is_given(hub: Path, tmp_path: Path) -> None:
    by_id = losses_of("org/adapter", "org/base", tmp_path)
    by_path = losses_of(str(tmp_path / "adapter"), str(tmp_path / "main"), tmp_path)
    assert by_id.losses[0] == by_path.losses[0]
    assert can_go_on("org/adapter", "org/base")
    assert not can_go_on("org/base", "org/base")


def test_the_revision_that_an_adapter_names_is_no_other_base(hub: Path, tmp_path: Path) -> None:
    assert not any("as its base" in note for note in losses_of("org/adapter", "org/base@v1", tmp_path).notes)
    [note] = [note for note in losses_of("org/adapter", "org/base", tmp_path).notes if "as its base" in note]
    said = "adapter 'org/adapter' names 'org/base@v1' as its base and is measured on 'org/base'"
    assert note.startswith(said)


def test_an_adapter_has_the_tokenizer_beside_it(hub: Path) -> None:
    opened = open_language_model("org/adapter")
    assert opened.tokenizer.chat_template == TEMPLATE
    assert opened.notes[-1].startswith("the chat template is that of adapter 'org/adapter'")


def test_a_classifier_is_measured_under_the_head_of_the_base_in_its_record(hub: Path, tmp_path: Path) -> None:
    base = save_bert(tmp_path / "bert")
    folder = snapshot(hub, "org/classifier", "main", "d" * 40)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    keep_training({"status": "finished", "config": {"base": str(base), "data_seed": 7}}, folder)
    by_id = losses_of("org/classifier", None, tmp_path)
    # A head alone was added, so the encoder under the base's head is the base.
    by_path = losses_of(str(base), None, tmp_path)
    assert by_id.losses[0].loss.estimate == pytest.approx(by_path.losses[0].loss.estimate)
    assert data_seed_of("org/classifier") == 7
