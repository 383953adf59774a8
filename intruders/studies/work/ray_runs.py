"""Runs on a Ray cluster: one task a run, with the resources that the study declares for it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from ...errors import DiskFullError, IntrudersError, in_one_line, missing_extra
from ..describe.runs import Run
from ..describe.study import Resources
from .workplace import Workplace

_RETRIES = 3  # of a run whose worker was killed; it goes on from its last finished stage or checkpoint


def on_ray(runs: Sequence[Run], place: Workplace, resources: Resources, address: str | None) -> Iterator[Run]:
    """Yields every run when it is over, in any order.

    ``address`` is that of a cluster, "auto" for the one that this machine belongs to, or None: the one that the
    environment names (RAY_ADDRESS), else a Ray of this machine for as long as it takes. A run whose worker dies is
    given to another. Raises MissingDependencyError without Ray, IntrudersError for a cluster that cannot be reached
    or has not what a run asks for, DiskFullError.
    """
    ray = _ray()
    is_ours = not ray.is_initialized()
    if is_ours:
        _connect(ray, address)
    pending: dict[Any, Run] = {}
    try:
        _check_resources(ray, resources)
        remote = ray.remote(
            num_cpus=resources.cpus,
            num_gpus=resources.gpus,
            max_retries=_RETRIES,
            scheduling_strategy="SPREAD",
        )(_task)
        pending = {remote.remote(run, place, max(1, int(resources.cpus))): run for run in runs}
        while pending:
            done, _ = ray.wait(list(pending), num_returns=1)
            run = pending.pop(done[0])
            try:
                ray.get(done[0])
            except ray.exceptions.RayError as error:
                cause = getattr(error, "cause", None)
                if isinstance(cause, DiskFullError):
                    raise cause from None
                place.fail(run, _reason(error, cause))
            yield run
    finally:
        for task in pending:
            ray.cancel(task, force=True)
        if is_ours:
            ray.shutdown()


def _task(run: Run, place: Workplace, threads: int) -> None:
    import torch

    from ...models.quiet import hush_imports

    hush_imports()
    torch.set_num_threads(threads)
    place.perform(run)


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise missing_extra("--ray", "ray", "ray") from error
    return ray


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
            f"--ray cannot use {where}: {in_one_line(error)[:300]}; start one with ray start --head, or give its "
            "address"
        ) from error


def _check_resources(ray: Any, resources: Resources) -> None:
    """Ray waits for ever for what no node has; a person should not."""
    wanted = {"CPU": resources.cpus, "GPU": resources.gpus}
    for name, amount in wanted.items():
        most = max((node["Resources"].get(name, 0) for node in ray.nodes() if node["Alive"]), default=0)
        if amount > most:
            raise IntrudersError(
                f"resources: a run asks for {amount:g} {name}s, and no node of the Ray cluster has more than {most:g}; "
                "change resources in the study's file, or add such a node"
            )


def _reason(error: Exception, cause: BaseException | None) -> str:
    if cause is not None:
        return in_one_line(cause)
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"its worker was lost, however often it was tried again ({type(error).__name__}: {first[:200]})"
