"""Every place that keeps work, with base, adapter, data and settings changed one at a time: nothing old is returned.

Each change keeps names, sizes and times of files, so that only their content can tell. What a call returns after a
change equals what it returns where nothing was kept; what it returns without a change is what was kept.
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import intruders
from intruders.studies.runs import expand
from intruders.studies.work import Workplace, is_done
from tests.experiments.healed_models import save_hot
from tests.studies.tiny_study import parsed, tiny_study


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_hot(tmp_path_factory.mktemp("models"))


@dataclass(frozen=True)
class Given:
    """What one call is given: a copy of the models and data, a folder for what is kept, and a setting."""

    folder: Path
    kept: Path | None
    setting: int = 0

    @property
    def sides(self) -> tuple[str, str]:
        return str(self.folder / "base"), str(self.folder / "tuned")

    @property
    def data(self) -> dict[str, Any]:
        losses = intruders.LossSettings((str(self.folder / "text.jsonl"),), window=(32, 16)[self.setting])
        # A tiny model never ends an answer by itself.
        scores = intruders.ScoreSettings(tasks=(task_in(self.folder),), max_examples=2, max_new_tokens=8)
        return {"losses": losses, "scores": scores}


def task_in(folder: Path) -> str:
    return f"{folder / 'task.jsonl'}?prompt=q&completion=a"


def as_before(file: Path, write: Callable[[], object]) -> None:
    """Change a file in a way that its size and its time do not tell."""
    stamp = file.stat()
    write()
    assert file.stat().st_size == stamp.st_size
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))


def other_base(folder: Path) -> None:
    """A matrix is another one; all norms stay, as in a model of which only linear layers were tuned."""
    file = folder / "base" / "model.safetensors"
    tensors = load_file(file)
    torch.manual_seed(1)
    for name in tensors:
        if "q_proj" in name or "down_proj" in name:
            tensors[name] = 0.3 * torch.randn_like(tensors[name])
    as_before(file, lambda: save_file(tensors, file, metadata={"format": "pt"}))


def other_adapter(folder: Path) -> None:
    file = folder / "tuned" / "adapter_model.safetensors"
    tensors = {name: 0.7 * tensor for name, tensor in load_file(file).items()}
    as_before(file, lambda: save_file(tensors, file, metadata={"format": "pt"}))


def other_data(folder: Path) -> None:
    for name, old, new in [("text.jsonl", "cat", "dog"), ("task.jsonl", "plus", "less")]:
        file = folder / name
        text = file.read_text().replace(old, new)
        as_before(file, lambda file=file, text=text: file.write_text(text))  # type: ignore[misc]


def fleet(given: Given) -> Any:
    base, tuned = given.sides
    found = intruders.audit_fleet(base, [tuned], out=given.kept, cache=False, k=(10, 5)[given.setting])
    vectors = found.to_pandas().sort_values(["name", "index"])
    return vectors[["name", "index", "singular_value", "intruder"]].values.tolist()


def base_cache(given: Given) -> Any:
    cache = False if given.kept is None else given.kept
    found = intruders.audit(*given.sides, cache=cache, k=(10, 5)[given.setting])
    return [[m.name, [(v.intruder, round(v.singular_value, 1)) for v in m.vectors]] for m in found.matrices]


def intervention(given: Given) -> Any:
    sweep = intruders.SweepSettings((0,), ("shrink",))
    found = intruders.intervene(*given.sides, sweep=sweep, keep=given.kept, **given.data)
    return found.to_document()["points"]


def remedies(given: Given) -> Any:
    comparison = intruders.ComparisonSettings(only=("truncate",), strengths=1)
    found = intruders.compare_remedies(*given.sides, comparison=comparison, out=given.kept, **given.data)
    return [found.base_point, found.tuned_point]


PLACES = {"fleet": fleet, "base cache": base_cache, "intervene": intervention, "remedies": remedies}
CHANGES: dict[str, Callable[[Path], None]] = {
    "base": other_base,
    "adapter": other_adapter,
    "data": other_data,
}
WITHOUT_DATA = {"fleet", "base cache"}


@pytest.mark.parametrize("place", PLACES)
def test_what_is_kept_is_of_what_was_given(models: Path, tmp_path: Path, place: str) -> None:
    call = PLACES[place]
    first = call(Given(shutil.copytree(models, tmp_path / "first"), tmp_path / "kept"))
    given = Given(tmp_path / "first", tmp_path / "kept")
    assert call(given) == first
    for change, make in CHANGES.items():
        shutil.rmtree(given.folder)
        make(shutil.copytree(models, given.folder))
        found, fresh = call(given), call(Given(given.folder, None))
        assert repr(found) == repr(fresh), change
        assert (found == first) == (change == "data" and place in WITHOUT_DATA), change
    shutil.rmtree(given.folder)
    shutil.copytree(models, given.folder)
    assert call(Given(given.folder, given.kept, setting=1)) == call(Given(given.folder, None, setting=1))
    assert call(given) == first


def test_a_study_returns_no_stage_of_another_base_or_other_data(models: Path, tmp_path: Path) -> None:
    """Training is refused rather than done over what is there; a model that was replaced is measured again."""
    folder = shutil.copytree(models, tmp_path / "models")
    measure, methods = {"audit": {"k": 4}, "max_examples": 2}, [{"method": "lora", "lr": 0.5}]
    settings = tiny_study(folder / "base", task=task_in(folder), measure=measure, methods=methods)
    [run] = expand(parsed(settings))
    place = Workplace.of(str(tmp_path / "study"))
    out = place.folder.run(run.id)
    place.perform(run)
    assert is_done(run, out)
    for change in (other_base, other_data):
        shutil.rmtree(folder)
        change(shutil.copytree(models, folder))
        assert not is_done(run, out)
        place.perform(run)
        record = json.loads((out / "run.json").read_text())
        assert record["status"] == "failed"
        assert "is not what it was when this run was trained" in record["error"]
    shutil.rmtree(folder)
    shutil.copytree(models, folder)
    place.perform(run)
    assert is_done(run, out)
    before = json.loads((out / "audit.json").read_text())["totals"]
    file = out / "model" / "adapter_model.safetensors"
    tensors = {name: 3.0 * tensor for name, tensor in load_file(file).items()}
    as_before(file, lambda: save_file(tensors, file, metadata={"format": "pt"}))
    assert not is_done(run, out)
    done: list[str] = []
    place.perform(run, on_stage=done.append)
    assert is_done(run, out)
    assert done == ["audit", "evaluate"]
    assert json.loads((out / "audit.json").read_text())["totals"] != before


def test_an_adapter_of_an_index_is_known_by_its_shards(models: Path, tmp_path: Path) -> None:
    from intruders.checkpoints.opening.many_sources import digest_of

    folder = shutil.copytree(models / "base", tmp_path / "base")
    names = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(names, "model-00001-of-00001.safetensors")}))
    before = {source: digest_of(str(source)) for source in (folder, index)}
    shard = folder / "model-00001-of-00001.safetensors"
    save_file({name: 2 * tensor for name, tensor in names.items()}, shard, metadata={"format": "pt"})
    assert all(digest_of(str(source)) != digest for source, digest in before.items())
