"""A base's losses count for its weights and their documents: others under the same name are measured again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from intruders.data.corpora import Corpora, Corpus
from intruders.measures.losses import DocumentLosses
from intruders.measures.measure_settings import LossSettings
from intruders.models.loading_settings import AS_STORED
from intruders.studies import base_losses as kept
from intruders.system import files
from tests.tiny import save_llama


def test_other_weights_under_the_same_path_are_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = save_llama(tmp_path / "base")
    measured: list[str] = []

    def losses_of(source: str, *_: object) -> dict[str, list[DocumentLosses]]:
        measured.append(source)
        return {"text": [DocumentLosses("cross-entropy", np.array([float(len(measured))]), np.array([1]))]}

    monkeypatch.setattr(kept, "losses_of", losses_of)
    settings, corpora = LossSettings(loss_on=("text",)), {"text": [Corpus("text", ["a document"])]}
    first = kept.base_losses(str(base), settings, corpora, tmp_path / "bases", AS_STORED)
    assert (
        kept.base_losses(str(base), settings, corpora, tmp_path / "bases", AS_STORED)["text"][0].mean == 1.0
    )
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\x00\x00\x00\x40")
    again = kept.base_losses(str(base), settings, corpora, tmp_path / "bases", AS_STORED)
    assert (first["text"][0].mean, again["text"][0].mean, len(measured)) == (1.0, 2.0, 2)


def test_a_kill_between_losses_and_their_record_does_not_leave_losses_of_another_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = str(save_llama(tmp_path / "base"))

    def losses_of(source: str, base: object, settings: object, corpora: Corpora, *_: object) -> Any:
        """A document's loss is its length, so that it tells of which text it is."""
        (part,) = corpora["text"]
        sums = np.array([float(len(document)) for document in part.documents])
        return {"text": [DocumentLosses("cross-entropy", sums, np.ones(len(sums), dtype=np.int64))]}

    def of(text: str) -> list[float]:
        corpora = {"text": [Corpus("text", [text])]}
        return list(kept.base_losses(base, settings, corpora, tmp_path / "bases", AS_STORED)["text"][0].sums)

    write = files.write_atomically

    def killed(path: Path, content: bytes) -> None:
        if path.name == "base.json":
            raise KeyboardInterrupt
        write(path, content)

    monkeypatch.setattr(kept, "losses_of", losses_of)
    settings = LossSettings(loss_on=("text",))
    assert of("four") == [4.0]
    with monkeypatch.context() as patched:
        patched.setattr(files, "write_atomically", killed)
        with pytest.raises(KeyboardInterrupt):
            of("of another length")
    assert of("four") == [4.0]


@pytest.mark.parametrize("content", [None, b"", b"PAR1 cut off"])
def test_losses_that_were_lost_or_cut_off_are_measured_again(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = str(save_llama(tmp_path / "base"))
    one = {"text": [DocumentLosses("cross-entropy", np.array([3.0]), np.array([1]))]}
    monkeypatch.setattr(kept, "losses_of", lambda *arguments: one)
    settings, corpora = LossSettings(loss_on=("text",)), {"text": [Corpus("text", ["a document"])]}
    kept.base_losses(base, settings, corpora, tmp_path / "bases", AS_STORED)
    (table,) = (tmp_path / "bases").rglob("*.parquet")
    if content is None:
        table.unlink()
    else:
        table.write_bytes(content)
    assert kept.base_losses(base, settings, corpora, tmp_path / "bases", AS_STORED)["text"][0].mean == 3.0
