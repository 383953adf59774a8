"""Work on a Ray cluster: one task per item, with the resources that it asks for."""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from ..errors import IntrudersError, SettingError, first_line, in_one_line, missing_extra
from .notes import show_warnings_as_notes
from .this_process import keep_freed_memory

_RETRIES = 3  # of an item whose worker was killed

Item = TypeVar("Item")


def map_on_ray(
    items: Sequence[Item],
    do: Callable[[Item], object],
    *,
    address: str | None = None,
    cpus: float = 1,
    gpus: float = 0,
    on_lost: Callable[[Item, str], None] = lambda item, how: None,
    on_result: Callable[[Item, Any], None] = lambda item, result: None,
) -> Iterator[Item]:
    """Call ``do`` on every item on a Ray cluster; yield each item when it is over, in any order.

    An item whose worker dies is given to another worker, up to three times. Items and ``do`` must pickle; workers have
    another working directory, and as many torch threads as the item asks for processors. ``address`` is that of a
    cluster, "auto" for the one that this machine belongs to, or None: the one that the environment names
    (RAY_ADDRESS), else a Ray of this machine for as long as it takes. Called here are ``on_lost`` with an item that was
    lost, and how, and ``on_result`` with what ``do`` returned. IntrudersError for a cluster that cannot be reached or
    lacks the resources, and whatever ``do`` raised of that kind.
    """
    wanted = {"CPU": cpus, "GPU": gpus}
    for name, amount in wanted.items():
        if not (math.isfinite(amount) and amount >= 0):
            raise SettingError(f"{name.lower()}s is {amount:g}; expected a number, 0 or more")
    try:
        import ray
    except ImportError as error:
        raise missing_extra("--ray", "ray", "ray") from error
    is_ours = not ray.is_initialized()
    if is_ours:
        _connect(ray, address)
    pending: dict[Any, Item] = {}
    try:
        _check_resources(ray, wanted)
        remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=_RETRIES, scheduling_strategy="SPREAD")(
            _task
        )
        pending = {remote.remote(do, item, max(1, int(cpus))): item for item in items}
        while pending:
            done, _ = ray.wait(list(pending), num_returns=1)
            item = pending.pop(done[0])
            try:
                on_result(item, ray.get(done[0]))
            except ray.exceptions.RayError as error:
                cause = getattr(error, "cause", None)
                if isinstance(cause, IntrudersError):
                    raise cause from None
                said = f"({type(error).__name__}: {first_line(error)})"
                lost = f"its worker was lost, however often it was tried again {said}"
                on_lost(item, lost if cause is None else in_one_line(cause))
            yield item
    finally:
        for task in pending:
            ray.cancel(task, force=True)
        if is_ours:
            ray.shutdown()


def finish_on_ray(
    items: Sequence[str],
    do: Callable[[str], object],
    *,
    ray: str | bool,
    cpus: float,
    gpus: float,
    what: str,
    told: Callable[[str, int], None],
) -> dict[str, Any]:
    """Call ``do`` on every item as :func:`map_on_ray`, for work that is kept as it is finished; return its results.

    ``ray`` is True or the address of a cluster, ``what`` the items are in the plural, and ``told`` is called with each
    item that is over and how many are. IntrudersError for items that were lost, after all others were done.
    """
    lost: dict[str, str] = {}
    results: dict[str, Any] = {}
    over = map_on_ray(
        items,
        do,
        address=None if ray is True else str(ray),
        cpus=cpus,
        gpus=gpus,
        on_lost=lost.__setitem__,
        on_result=results.__setitem__,
    )
    for done, item in enumerate(over, 1):
        told(item, done)
    if lost:
        item, how = next(iter(lost.items()))
        raise IntrudersError(
            f"{len(lost)} of {len(items)} {what} were lost on Ray, the first '{item}': {how}; what is finished is "
            "kept; run the same command again to resume"
        )
    return results


def _task(do: Callable[[Any], object], item: object, threads: int) -> object:
    import torch

    torch.set_num_threads(threads)
    keep_freed_memory()
    show_warnings_as_notes()
    return do(item)


def _connect(ray: Any, address: str | None) -> None:
    try:
        ray.init(
            address=address,
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.WARNING,
        )
    except Exception as error:  # Ray raises ConnectionError, ValueError, RuntimeError and gRPC's own
        where = repr(address) if address else "a Ray of this machine"
        raise IntrudersError(
            f"--ray cannot use {where}: {in_one_line(error)[:300]}; "
            "start one with ray start --head, or pass its address"
        ) from error


def _check_resources(ray: Any, wanted: dict[str, float]) -> None:
    """Ray waits for ever for what no node has; a person should not."""
    for name, amount in wanted.items():
        most = max((node["Resources"].get(name, 0) for node in ray.nodes() if node["Alive"]), default=0)
        if amount > most:
            raise IntrudersError(
                f"resources: a task asks for {amount:g} {name}s, and no node of the cluster has more than {most:g}; "
                "ask for fewer (resources in a study's file, --cpus and --gpus of a fleet), or add such a node"
            )
