"""Which settings a folder of a run is resumed with."""

from __future__ import annotations

from pathlib import Path

import pytest

from intruders.errors import ResultFileError, SettingError
from intruders.training.run_folder import RunFolder
from tests.tiny import save_llama


@pytest.mark.parametrize("key", ["base", "start_from"])
@pytest.mark.parametrize(
    ("before", "now", "is_accepted"),
    [
        ("seq/stage-1/x", "{here}/seq/stage-1/x", True),  # from the same place, named in full
        ("/gone/seq/stage-1/x", "{here}/seq/stage-1/x", True),  # moved
        ("org/model", "org/model", True),
        ("org/model", "org/another", False),
        ("seq/stage-1/x", "{here}/seq/stage-1/y", False),
        ("seq/stage-1/x", "{here}/stage-1/x", False),  # not where the run is
        ("/gone/stage-1/x", "{here}/seq/stage-1/x", False),
        (None, "{here}/seq/stage-1/x", False),
    ],
)
def test_a_model_where_the_run_is_may_have_moved_with_it(
    key: str, before: str | None, now: str, is_accepted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = RunFolder(tmp_path / "seq" / "stage-2")
    run.path.mkdir(parents=True)
    parent = "/gone/seq" if before and before.startswith("/gone") else "seq"
    run.write_record({"config": {"rank": 2, "out": f"{parent}/stage-2", key: before}})
    config = {"rank": 2, "out": str(run.path), key: now.format(here=tmp_path)}
    if is_accepted:
        run.open_for(config)
        with pytest.raises(SettingError, match=r"a run with other settings \(rank\)"):
            run.open_for(config | {"rank": 3})
    else:
        with pytest.raises(SettingError, match=rf"a run with other settings \({key}\)"):
            run.open_for(config)


def test_a_model_in_shards_needs_all_of_them(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(save_llama(tmp_path / "base"))
    run = RunFolder(tmp_path / "run")
    model.save_pretrained(run.path, max_shard_size="40KB")
    run.write_record({"status": "finished", "config": {"method": "full"}})
    shards = sorted(file.name for file in run.path.glob("model-*.safetensors"))
    assert len(shards) > 1
    run.require_model()
    (run.path / shards[1]).unlink()
    with pytest.raises(SettingError, match=rf"without its model \(missing: '{shards[1]}'\); restore it"):
        run.require_model()


@pytest.mark.parametrize("content", ["{}", '{"schema": 1, "config": null, "status": "finished"}', "[]"])
def test_a_file_of_another_kind_is_not_taken_for_the_record(content: str, tmp_path: Path) -> None:
    """Other programs have a run.json too, and so has a run of a study in which nothing is trained."""
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ResultFileError, match=r"run\.json' is not the record of a run; move it away"):
        RunFolder(tmp_path).open_for({"rank": 2, "out": str(tmp_path)})
