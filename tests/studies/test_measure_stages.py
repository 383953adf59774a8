"""A base's losses count for its weights and their documents: others under the same name are measured again."""

from pathlib import Path

import numpy as np
import pytest

from intruders.data.corpora import Corpus
from intruders.measures import corpus_loss
from intruders.measures.losses import DocumentLosses
from intruders.measures.measure_settings import LossSettings
from intruders.models.loading_settings import AS_STORED
from intruders.models.tuned_model import OpenedModel
from intruders.studies import measure_stages as kept
from tests.tiny import save_llama


def test_other_weights_of_a_path_are_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = save_llama(tmp_path / "base")
    measured: list[OpenedModel] = []

    def losses_by_corpus(opened: OpenedModel, *_: object) -> dict[str, list[DocumentLosses]]:
        measured.append(opened)
        return {"text": [DocumentLosses("cross-entropy", np.array([float(len(measured))]), np.array([1]))]}

    monkeypatch.setattr(corpus_loss, "losses_by_corpus", losses_by_corpus)
    corpora = {"text": [Corpus("text", ["a document"])]}
    arguments = (str(base), LossSettings(loss_on=("text",)), corpora, tmp_path / "bases", AS_STORED)
    assert [kept.base_losses(*arguments)["text"][0].mean for _ in range(2)] == [1.0, 1.0]
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\x00\x00\x00\x40")
    assert (kept.base_losses(*arguments)["text"][0].mean, len(measured)) == (2.0, 2)
