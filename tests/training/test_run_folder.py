"""Which settings and contents a folder of a run is resumed with."""

import hashlib
import json
import shutil
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

import pytest
import xxhash
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from intruders.errors import ResultFileError, SettingError
from intruders.models.base_model import content_of_model, contents_of
from intruders.training.finetune import finetune
from intruders.training.finetune_config import FinetuneConfig
from intruders.training.run_folder import RunFolder
from tests.tiny import save_llama, write_files_of_a_model
from tests.training.tiny_runs import Interrupt, config_of, on_rows, rows_file


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
        run.require_same_settings(config)
        with pytest.raises(SettingError, match=r"a run with other settings \(rank\)"):
            run.require_same_settings(config | {"rank": 3})
    else:
        with pytest.raises(SettingError, match=rf"a run with other settings \({key}\)"):
            run.require_same_settings(config)


def test_a_model_in_shards_needs_all_of_them(tmp_path: Path) -> None:
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
        RunFolder(tmp_path).require_same_settings({"rank": 2, "out": str(tmp_path)})


TEXT = "alpha beta gamma delta epsilon zeta eta theta"


def _config(out: str) -> FinetuneConfig:
    """A run on the inputs in the current folder."""
    settings = on_rows(Path("rows.jsonl")) | {"audit_steps": 2, "loss_on": "measured.txt"}
    settings |= {"loss_documents": 1, "replay": "replayed.txt@0.5"}
    return config_of(Path("base"), Path(out), **settings)


@pytest.fixture(scope="module")
def inputs(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with inputs, a run on them that was interrupted, and one that was resumed and has finished."""
    folder = tmp_path_factory.mktemp("inputs")
    shutil.copytree(llama, folder / "base")
    rows_file(folder / "rows.jsonl", range(60))
    (folder / "measured.txt").write_text(TEXT)
    (folder / "replayed.txt").write_text(f"{TEXT} iota")  # what is measured is not replayed
    with chdir(folder):
        with pytest.raises(KeyboardInterrupt):
            finetune(_config("interrupted"), [Interrupt()])
        Path("base/audit.json").write_text("{}")  # is not what the model computes by
        shutil.copytree("interrupted", "finished")
        finetune(_config("finished"))
    return folder


@pytest.fixture
def folder(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of these, which is the current folder."""
    copy = Path(shutil.copytree(inputs, tmp_path / "inputs"))
    monkeypatch.chdir(copy)
    return copy


def _negate(weights: Path) -> None:
    save_file({name: -tensor for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})


def _reword(text: Path) -> None:
    text.write_text("other words")


@pytest.mark.parametrize("out", ["interrupted", "finished"])
@pytest.mark.parametrize(
    ("name", "change", "refusal"),
    [
        ("rows.jsonl", lambda rows: rows_file(rows, range(40)), r"\(train split .*: 54 rows then, 36 now\)"),
        ("rows.jsonl", lambda rows: rows_file(rows, range(1, 61)), "54 rows, of another content"),
        ("base/model.safetensors", _negate, "a run from another base, whose files have changed since"),
        ("measured.txt", _reword, r"measured its loss on other text of 'measured.txt' \(1 documents then"),
        ("replayed.txt", _reword, "replayed other text of 'replayed.txt'"),
    ],
)
def test_a_run_goes_on_from_its_own_inputs(
    name: str, change: Callable[[Path], object], refusal: str, out: str, folder: Path
) -> None:
    def files() -> dict[Path, bytes]:
        return {file: file.read_bytes() for file in (folder / out).rglob("*") if file.is_file()}

    before = files()
    change(folder / name)
    with pytest.raises(SettingError, match=refusal):
        finetune(_config(out))
    assert files() == before


def test_a_finished_run_knows_its_text_when_it_is_lost(folder: Path) -> None:
    (folder / "measured.txt").unlink()
    digest = hashlib.sha256(json.dumps([TEXT]).encode()).hexdigest()[:12]
    known = {"corpus": "measured.txt", "documents": 1, "digest": digest}
    assert finetune(_config("finished")).record["loss_on"] == known


def test_a_run_stores_what_its_training_depends_on(tmp_path: Path) -> None:
    write_files_of_a_model(tmp_path)
    stored = b"config.json 2 {}model.safetensors 7 numberstokenizer.json 5 words"
    assert content_of_model(str(tmp_path)) == xxhash.xxh3_128(stored).hexdigest()


@pytest.mark.parametrize("name", [
    "vocab.txt", "special_tokens_map.json", "added_tokens.json", "tokenizer.model", "sentencepiece.bpe.model",
    "source.spm", "qwen.tiktoken",
])  # fmt: skip
def test_a_tokenizer_that_changes_is_another_model(name: str, tmp_path: Path) -> None:
    """Token numbers would mean other words than those that the run began with."""
    write_files_of_a_model(tmp_path)
    (tmp_path / name).write_text("alpha beta")
    before = contents_of({"base": str(tmp_path)})
    (tmp_path / "notes.md").write_text("of another day")
    assert contents_of({"base": str(tmp_path)}) == before
    (tmp_path / name).write_text("beta alpha")
    changed = contents_of({"base": str(tmp_path)})
    assert {key for key in before if changed[key] != before[key]} == {"tokenizer of base"}
