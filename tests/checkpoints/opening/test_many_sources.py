"""Several models at once: which ones a collection of the Hub, or a list in a file, stands for."""

from __future__ import annotations

from pathlib import Path

import pytest

from intruders.checkpoints.opening.many_sources import each_source
from intruders.errors import CheckpointError


def test_models_of_a_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    import huggingface_hub

    items = [
        SimpleNamespace(item_id="org/one", item_type="model"),
        SimpleNamespace(item_id="org/data", item_type="dataset"),
    ]
    monkeypatch.setattr(huggingface_hub, "get_collection", lambda slug: SimpleNamespace(items=items))
    assert each_source(["collection:org/some-123"]).models == ["org/one"]

    def unknown(slug: str) -> None:
        raise ValueError("no such collection")

    monkeypatch.setattr(huggingface_hub, "get_collection", unknown)
    with pytest.raises(CheckpointError, match="'org/some-123' cannot be fetched"):
        each_source(["collection:org/some-123"])


def test_a_list_with_a_byte_order_mark_names_its_first_adapter(tmp_path: Path) -> None:
    """As an editor of Windows saves it."""
    listed = tmp_path / "list.txt"
    listed.write_bytes("\ufeffone\r\ntwo\r\n".encode())
    assert each_source([f"@{listed}"]).models == ["one", "two"]
