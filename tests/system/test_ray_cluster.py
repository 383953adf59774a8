"""Work on a Ray cluster, by one made up here: what is lost, raised and ended. The slow tests start a real one."""

import sys
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from intruders.errors import IntrudersError, MissingDependencyError, SettingError
from intruders.system.ray_cluster import finish_on_ray, map_on_ray


class RayError(Exception):
    """As Ray raises it where a task failed; an error of the work is its cause."""

    cause: BaseException | None = None


class Ray(ModuleType):
    """A cluster in this process, which is done with the last item first."""

    def __init__(self) -> None:
        super().__init__("ray")
        self.exceptions = SimpleNamespace(RayError=RayError)
        self.addresses: list[str | None] = []
        self.asked: list[dict[str, Any]] = []
        self.cancelled: list[int] = []
        self.is_up = self.cannot_start = False
        self._calls: list[Callable[[], object]] = []

    def is_initialized(self) -> bool:
        return self.is_up

    def init(self, address: str | None, **options: object) -> None:
        if self.cannot_start:
            raise ConnectionError("no head node\nat that address")
        self.addresses.append(address)
        self.is_up = True

    def shutdown(self) -> None:
        self.is_up = False

    def nodes(self) -> list[dict[str, Any]]:
        gone = {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}
        return [{"Alive": True, "Resources": {"CPU": 4.0}}, gone]

    def remote(self, **asked: Any) -> Callable[[Callable[..., object]], Any]:
        self.asked.append(asked)

        def started(task: Callable[..., object], *given: object) -> int:
            self._calls.append(lambda: task(*given))
            return len(self._calls) - 1

        return lambda task: SimpleNamespace(remote=lambda *given: started(task, *given))

    def wait(self, pending: list[int], num_returns: int) -> tuple[list[int], list[int]]:
        assert num_returns == 1
        return pending[-1:], pending[:-1]

    def get(self, task: int) -> object:
        try:
            return self._calls[task]()
        except RayError:
            raise
        except Exception as error:
            failed = RayError(f"task {task} failed")
            failed.cause = error
            raise failed from error

    def cancel(self, task: int, force: bool) -> None:
        assert force
        self.cancelled.append(task)


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ray]:
    made, threads = Ray(), torch.get_num_threads()
    monkeypatch.setitem(sys.modules, "ray", made)
    yield made
    torch.set_num_threads(threads)  # a task sets those of its process, which is this one here


def do(item: str) -> str:
    if item == "killed":
        raise RayError("the worker died\nwith a long story")
    if item == "broken":
        raise ValueError("a fault of the work")
    if item == "refused":
        raise SettingError("this item is refused")
    return item.upper()


def test_a_lost_item_costs_itself_alone_and_is_told_with_its_reason(ray: Ray) -> None:
    lost: dict[str, str] = {}
    results: dict[str, str] = {}
    told: dict[str, Any] = {"on_lost": lost.__setitem__, "on_result": results.__setitem__}
    over = map_on_ray(["a", "killed", "b", "broken"], do, cpus=3, **told)
    assert list(over) == ["broken", "b", "killed", "a"]
    assert results == {"a": "A", "b": "B"}
    assert lost == {
        "killed": "its worker was lost, however often it was tried again (RayError: the worker died)",
        "broken": "ValueError: a fault of the work",
    }
    [asked] = ray.asked
    assert (asked["num_cpus"], asked["num_gpus"], asked["max_retries"]) == (3, 0, 3)
    assert torch.get_num_threads() == 3
    assert (ray.is_up, ray.cancelled) == (False, [])


def test_an_error_of_this_package_is_raised_as_it_is_and_ends_what_waits(ray: Ray) -> None:
    over = map_on_ray(["waits", "waits too", "refused", "a"], do)
    assert next(over) == "a"
    with pytest.raises(SettingError, match=r"^this item is refused$"):
        next(over)
    assert (ray.is_up, ray.cancelled) == (False, [0, 1])


def test_who_leaves_early_leaves_nothing_running(ray: Ray) -> None:
    over = map_on_ray(["a", "b", "c"], do)
    assert next(over) == "c"
    over.close()  # type: ignore[attr-defined]
    assert (ray.is_up, ray.cancelled) == (False, [0, 1])


def test_a_ray_that_runs_already_is_used_and_left_running(ray: Ray) -> None:
    ray.is_up = True
    assert list(map_on_ray(["a"], do, address="somewhere")) == ["a"]
    assert ray.is_up
    assert ray.addresses == []


@pytest.mark.parametrize(("given", "address"), [(True, None), ("auto", "auto")])
def test_what_is_kept_counts_and_a_lost_is_named(ray: Ray, given: str | bool, address: str | None) -> None:
    told: list[tuple[str, int]] = []
    asked: dict[str, Any] = {"ray": given, "cpus": 1, "gpus": 0, "what": "blocks"}
    said = r"^2 of 3 blocks were lost on Ray, the first 'broken': ValueError: a fault of"
    with pytest.raises(IntrudersError, match=said):
        finish_on_ray(
            ["killed", "a", "broken"], do, **asked, told=lambda item, done: told.append((item, done))
        )
    assert told == [("broken", 1), ("a", 2), ("killed", 3)]
    assert ray.addresses == [address]


def test_what_no_node_has_is_refused_before_anything_waits_for_it(ray: Ray) -> None:
    for asked, said in [
        ({"gpus": 1}, "asks for 1 GPUs, and no node .* more than 0"),
        ({"cpus": -1}, "cpus is -1; expected a number, 0 or more"),
        ({"gpus": float("inf")}, "gpus is inf; expected a number, 0 or more"),
        ({"cpus": 5}, "more than 4"),
    ]:
        with pytest.raises(IntrudersError, match=said):
            list(map_on_ray(["a"], do, **asked))  # type: ignore[arg-type]
    assert not ray.is_up


def test_a_cluster_out_of_reach_and_no_ray_are_one_line(ray: Ray, monkeypatch: pytest.MonkeyPatch) -> None:
    ray.cannot_start = True
    said = "--ray cannot use 'far': ConnectionError: no head node at that address"
    with pytest.raises(IntrudersError, match=said) as error:
        list(map_on_ray(["a"], do, address="far"))
    assert "\n" not in str(error.value)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError):
        list(map_on_ray(["a"], do))
