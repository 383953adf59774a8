"""``intruders prepare``, ``intruders cache`` and ``intruders plugins``."""

from typing import Any

from ..audits.audit_settings import Compute
from ..checkpoints.stored.selection import Selection
from ..models.loading_settings import Loading
from . import options
from .from_verb import command, flag, of_settings, option
from .output import note, progress_bar, put_json, say

SCHEMA = 1  # of the list of plugins


@command(
    options.BASE_ALONE,
    option(
        "out",
        str | None,
        "Folder or URL of the base cache; pass it to audits as --cache. [default: the user's cache folder]",
        metavar="FOLDER|URL",
        panel=options.OUTPUT,
    ),
    option(
        "loss_on",
        str | None,
        "Also keep the base's gradients on this text, so that audits predict the nats forgotten on it: pydoc, a text "
        "or data file, a folder, or a Hub corpus such as c4. [default: none]",
        metavar="TEXT",
        panel=options.MEASURES,
    ),
    of_settings("selection", Selection),
    of_settings("compute", Compute, only=["device"]),
    options.WORKERS_ON_RAY,
)
def prepare(
    *,
    base: str,
    out: str | None,
    loss_on: str | None,
    selection: Selection,
    compute: Compute,
    **workers: Any,
) -> None:
    """Decompose a base ahead of many audits.

    Audits of adapters of this base then take a fraction of their time, and with --loss-on they predict what was
    forgotten. Resumes where an earlier call ended.

    Examples:
      # Decompose a base ahead of many audits
      intruders prepare smollm2-135m
      # Let its audits predict the nats forgotten on a text
      intruders prepare smollm2-135m --loss-on pydoc
    """
    from ..audits.prepare_base import Preparation
    from ..audits.prepare_base import prepare as prepare_base
    from ..errors import SettingError
    from ..system.store import is_url

    plan = None
    if loss_on is not None:
        if out is not None and is_url(out):
            raise SettingError(
                f"out is '{out}', and --loss-on keeps gradients in a folder alone; pass a folder"
            )
        from ..measures.prepare_nats import NatsPlan

        plan = NatsPlan.of(base, loss_on, selection=selection, loading=Loading(device=compute.device))
    preparation = Preparation.of(base, selection) if plan is None else plan.preparation
    expected = _in_words(preparation.expected_seconds(compute.torch_device()))
    size = f"{len(preparation.matrices):,} matrices, {preparation.bytes / 2**30:,.2f} GiB"
    note(f"{size}, about {expected} if none is decomposed yet")
    if plan is not None:
        note(plan.in_words())
    how = vars(selection) | workers
    with progress_bar() as progress:
        result = prepare_base(base, out=out, device=compute.device, **how, progress=progress)
        seconds = 0.0 if plan is None else plan.keep(out, progress=progress)
    done = f"{result.decomposed:,} of them now in {_in_words(result.seconds)}"
    say([f"{result.folder}: {result.matrices:,} matrices are decomposed, {done}"], whole=True)
    if plan is not None:
        say([f"audits predict the nats forgotten on {loss_on}, prepared in {_in_words(seconds)}"], whole=True)


def _in_words(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


@command(options.CACHE, flag("clear", "Remove all entries."))
def cache(*, cache: str | None, clear: bool) -> None:
    """Show the size of the base cache, or clear it.

    Examples:
      # Show where the base cache is and how large it is
      intruders cache
      # Clear the base cache in another folder
      intruders cache --cache /data/intruders --clear
    """
    from ..audits.base_cache import DiskCache
    from ..errors import CacheError
    from ..system.files import user_path
    from ..system.store import is_url

    # To open a cache makes its folder, which is not what a person who looks at a mistyped one wants.
    if cache is not None and not is_url(cache) and not user_path(cache).exists():
        say([f"{cache}: this folder does not exist, so it has no cache"], whole=True)
        return
    store = DiskCache(cache)
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


@command(flag("json", "Print JSON, and nothing else."))
def plugins(*, json: bool) -> None:
    """List the formats, remedies and tasks of other packages.

    Lists corpora and claims too, each with its package, and names each plugin that could not be loaded.

    Examples:
      # List what other packages add, and what failed to load
      intruders plugins
      # The same as JSON
      intruders plugins --json
    """
    from ..system.plugins import load_plugins

    loaded = load_plugins()
    if json:
        keys = ("group", "name", "value", "package", "error")
        rows = [{key: getattr(plugin, key) for key in keys} for plugin in loaded]
        put_json({"schema": SCHEMA, "plugins": rows}, "-")
        return
    if not loaded:
        say(["no plugins are installed"])
    for plugin in loaded:
        failed = "" if plugin.error is None else f", not loaded: {plugin.error}"
        say([f"{plugin.group}: {plugin.name} from {plugin.package} ({plugin.value}){failed}"])
