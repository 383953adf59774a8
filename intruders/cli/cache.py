"""``intruders cache``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def cache(
    folder: Annotated[
        Path | None, typer.Option("--cache", help="The folder; the user's cache folder if not given.")
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Remove all entries.")] = False,
) -> None:
    """Show how much is kept of base models to start from, or clear it."""
    from ..detection.cache import DiskCache

    store = DiskCache(folder)
    entries, size = store.size()
    typer.echo(f"{store.folder}: {entries:,} matrices, {size / 2**20:,.1f} MiB")
    if clear:
        typer.echo(f"removed {store.clear():,}")
