"""A base's losses on text, measured once for all runs that start from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ..data.corpora import Corpora, digests_of, load_all
from ..errors import IntrudersError
from ..measures.corpus_loss import losses_by_corpus
from ..measures.evaluation import losses_in, table_of
from ..measures.losses import DocumentLosses
from ..measures.measure_settings import LossSettings
from ..models.loading_settings import Loading
from ..models.stored_dtype import recorded_dtypes
from ..models.tuned_model import open_language_model
from ..system.digests import json_digest
from ..system.documents import read_document
from ..system.files import write_together
from ..system.folders import locked_folder

SCHEMA = 1
# The documents are a sample that is the same for all runs of a study, whatever their seed: all can be compared.
SAMPLE_SEED = 0
TABLE = "documents.parquet"


def base_folder_name(base: str, settings: LossSettings, loading: Loading) -> str:
    """Return the name of the folder for the losses of ``base``."""
    return json_digest({"base": base, **settings.recorded(), **loading.recorded()}, 16)


def corpora_of(settings: LossSettings) -> Corpora:
    """Load the documents of every corpus, by name: one entry per part of a mixture."""
    return load_all(settings.loss_on, max_documents=settings.max_documents, seed=SAMPLE_SEED)


def base_losses(
    base: str, settings: LossSettings, corpora: Corpora, bases: Path, loading: Loading
) -> dict[str, list[DocumentLosses]]:
    """Return the base's losses by corpus, one entry per part of a mixture; measure them on the first call."""
    folder = bases / base_folder_name(base, settings, loading)
    folder.mkdir(parents=True, exist_ok=True)
    # Another run may be at it: its numbers are worth waiting for.
    with locked_folder(folder, wait=True):
        # Kept losses count for their documents, weights and type of numbers, whatever the base's name.
        measured = {
            "documents": digests_of(corpora),
            "content": _content(base),
            **recorded_dtypes(loading, [base]),
        }
        if not _is_of_these(folder, measured) or not _is_complete(folder / TABLE):
            _measure(base, settings, loading, corpora, folder, measured)
    table = pd.read_parquet(folder / TABLE)
    return {corpus: losses_in(table, corpus) for corpus in settings.loss_on}


def losses_of(
    source: str, base: str | None, settings: LossSettings, corpora: Corpora, loading: Loading
) -> dict[str, list[DocumentLosses]]:
    """Measure the losses of one model, by corpus. IntrudersError for a model without a language-model head."""
    opened = open_language_model(source, base, loading)
    return losses_by_corpus(opened, corpora, settings, SAMPLE_SEED)


def _content(base: str) -> str | None:
    """Return a digest of the base's files; None where they are not on this machine yet."""
    from ..models.base_model import digest_of_model

    try:
        return digest_of_model(base)
    except (IntrudersError, OSError):
        return None


def _is_of_these(folder: Path, measured: Mapping[str, Any]) -> bool:
    """Return True if the folder's losses are of these documents, weights and types, whatever their names."""
    record = read_document(folder / "base.json", "the record of a base's losses", SCHEMA)
    if record is None:
        return False
    # Earlier versions did not write which weights they measured: these are measured again.
    return bool(
        record.get("documents") == measured["documents"]
        and record.get("content", "") == measured["content"]
        and record.get("dtype") == measured.get("dtype")
    )


def _is_complete(table: Path) -> bool:
    """Return whether a table of losses can be read; one that was removed or cut off is measured again."""
    try:
        pq.read_schema(table)
    except (pa.ArrowException, OSError):
        return False
    return True


def _measure(
    base: str,
    settings: LossSettings,
    loading: Loading,
    corpora: Corpora,
    folder: Path,
    measured: Mapping[str, Any],
) -> None:
    table = table_of(losses_of(base, None, settings, corpora, loading))
    document = {"schema": SCHEMA, "base": base, "settings": settings.recorded(), **measured}
    # A record of other documents must not vouch for the losses of these.
    write_together(
        {folder / TABLE: table.to_parquet(index=False)},
        folder / "base.json",
        (json.dumps(document, indent=2) + "\n").encode(),
    )
