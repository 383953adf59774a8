"""``intruders cache``."""

from __future__ import annotations

from typing import Annotated

import typer

from . import options
from .command import examples
from .output import say


@examples(
    ("Show where the base cache is and how large it is", "intruders cache"),
    ("Clear the base cache in another folder", "intruders cache --cache /data/intruders --clear"),
)
def cache(
    folder: options.CacheFolder = None,
    clear: Annotated[bool, typer.Option("--clear", help="Remove all entries.")] = False,
) -> None:
    """Show the size of the base cache, or clear it."""
    from ..audits.base_cache import cache_at
    from ..errors import CacheError
    from ..system.files import user_path
    from ..system.store import is_url

    # To open a cache makes its folder, which is not what a person who looks at a mistyped one wants.
    if folder is not None and not is_url(folder) and not user_path(folder).exists():
        say([f"{folder}: this folder does not exist, so it has no cache"], whole=True)
        return
    store = cache_at(folder)
    entries, size = store.size()
    say([f"{store.folder}: {entries:,} matrices, {size / 2**20:,.1f} MiB"], whole=True)
    whole, of_whole = store.size_of_whole_bases()
    if whole:
        say([f"of these {whole:,} are decomposed in full (intruders prepare), {of_whole / 2**20:,.1f} MiB"])
    if clear:
        removed, left = store.clear()
        say([f"removed {removed:,} matrices"])
        if left:
            raise CacheError(
                f"{left:,} matrices in '{store.folder}' cannot be removed; expected entries of this user in a folder "
                "that can be written to; ask their owner to run this command"
            )
