"""intruders study as a person types it."""

import json
from pathlib import Path

import pytest
import yaml

from tests.commands import in_this_process, printed, refusal, without_loading
from tests.house.pinned_facts import STUDIES
from tests.studies.conftest import own_cache as own_cache
from tests.studies.tiny_study import BRIEF, tiny_study


@pytest.fixture
def file(llama: Path, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_study(llama, measure=BRIEF), sort_keys=False))
    return path


def test_a_dry_run_refuses_the_folders_that_the_run_refuses(file: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    for name, content in {
        "other/study.json": json.dumps({"name": "another", "analyses": ["structure"]}),
        "things/notes.txt": "mine",
        "published/published.json": "{}",
    }.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(content)
    for out, words, more in (
        ("other", "contains the study 'another', and this file is 'tiny'; choose another folder", []),
        ("things", "is not empty and not a study; choose another folder", []),
        ("published", "contains the published tables of a study; pass another folder", []),
        ("new", "contains no study to resume; remove --resume, or pass its folder", ["--resume"]),
        ("none", "contains no study to resume; remove --resume, or pass its folder", ["--resume"]),
        ("other/study.json", "cannot be written", []),
    ):
        before = sorted(tmp_path.rglob("*"))
        planned, real = (
            refusal("study", file, *way, "--out", tmp_path / out, *more) for way in (["--dry-run"], [])
        )
        assert planned == real
        assert words in planned
        assert sorted(tmp_path.rglob("*")) == before
    assert in_this_process("study", file, "--dry-run", "--out", tmp_path / "new").returncode == 0


def test_a_dry_run_looks_whether_its_data_and_bases_are_there(file: Path, tmp_path: Path) -> None:
    document = yaml.safe_load(file.read_text())
    experiment = next(iter(document["experiments"].values()))
    task = {"task": f"{tmp_path / 'none.csv'}?prompt=p&completion=c"}
    for changed, said in [
        (task, "none.csv' does not exist; fix the study"),
        ({"base": str(tmp_path / "nobase")}, "nobase' is not a model folder"),
    ]:
        file.write_text(yaml.safe_dump(document | {"experiments": {"only": experiment | changed}}))
        for more in (["--dry-run"], ["--out", tmp_path / "out"]):
            assert said in refusal("study", file, *more)
    assert not (tmp_path / "out").exists()
    file.write_text(yaml.safe_dump(document | {"experiments": {"only": experiment | {"base": "nobase"}}}))
    said = "base: 'nobase' names no local folder and is taken from the Hub"
    assert said in printed("study", file, "--dry-run")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": "no-such-task"}, "task 'no-such-task' is not known"),
        ({"task": "{tmp}/cut.jsonl"}, "cut.jsonl' cannot be read as jsonl: line 2"),
        ({"task": "{tmp}/rows.jsonl?prompt=p&completion=q"}, "column 'q' is not in rows.jsonl"),
        ({"validation_file": "{tmp}/cut.jsonl"}, "cut.jsonl' cannot be read as jsonl: line 2"),
        ({"replay": "no-such-text@0.2"}, "corpus 'no-such-text' is not known"),
        ({"measure": {"loss_on": ["pydoc@0.5+{tmp}/none.txt@0.5"]}}, "none.txt' is not known"),
        ({"measure": {"loss_on": ["{tmp}/empty.txt"]}}, "empty.txt' is empty"),
        ({"base": "{tmp}/broken"}, "config.json' is not valid JSON"),
    ],
)
def test_a_dry_run_reads_the_data(changes: dict[str, object], said: str, file: Path, tmp_path: Path) -> None:
    row = json.dumps({"p": "a", "c": "b"}) + "\n"
    (tmp_path / "rows.jsonl").write_text(3 * row)
    (tmp_path / "cut.jsonl").write_text(row + row[:9])
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text('{"a')
    document = yaml.safe_load(file.read_text())
    document["experiments"]["matched"] |= json.loads(json.dumps(changes).replace("{tmp}", str(tmp_path)))
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    assert said in refusal("study", file, "--dry-run", "--out", tmp_path / "out")


def test_a_dry_run_of_the_examples_needs_no_network_and_loads_no_model() -> None:
    stems = ("paper-roberta", "paper-llama", "small", "quickstart")
    files = [str(file) for file in sorted(STUDIES) if file.stem in stems]
    no_network = "import socket\nsocket.socket.connect = None\n"  # a call of it raises
    commands = [["study", file, "--dry-run"] for file in files]
    done = without_loading(["transformers", "datasets"], *commands, before=no_network)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("runs (") == len(files)


def test_a_study_is_refused_and_planned_without_loading_torch(tmp_path: Path) -> None:
    """It takes several times as long as the rest, and nothing needs it but the speed of this machine."""
    of_no_model, untrained = tmp_path / "no-model.yaml", tmp_path / "untrained.yaml"
    run_of = "{task: pydoc-topics, rank: 2, steps: 2, base: ./no-such-folder}"
    of_no_model.write_text(f"experiments: {{one: {run_of}}}\n")
    untrained.write_text("experiments: {one: {kind: random-rank-one, base: smollm2-135m, multiples: [1]}}\n")
    refused = (
        "from intruders.cli.main import app\n"
        "from intruders.errors import CheckpointError\n"
        "try:\n"
        f"    app(['study', {str(of_no_model)!r}, '--dry-run'], standalone_mode=False)\n"
        "except CheckpointError as error: print(error)\n"
    )
    done = without_loading(["torch"], ["study", untrained, "--dry-run"], before=refused)
    assert done.returncode == 0, done.stderr
    assert "1 random-rank-one" in done.stdout
    assert "'./no-such-folder' is not a model folder" in done.stdout


def test_a_failed_run_is_listed_and_the_status_says_so(llama: Path, tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(yaml.safe_dump(tiny_study(llama, task="no-such-task")))
    done = in_this_process("study", file, "--out", tmp_path / "out")
    assert done.returncode == 1
    assert "0 of 2 runs finished, 2 failed" in done.stdout
    assert "task 'no-such-task' is not known" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--out is missing; expected the folder of the study"),
        (["--out", "{tmp}/new", "--jobs", "2", "--ray"], "jobs is 2 beside Ray"),
        (["--out", "nonsense://bucket"], "cannot be opened"),
    ],
)
def test_refusals_are_one_line(file: Path, tmp_path: Path, arguments: list[str], words: str) -> None:
    assert words in refusal("study", file, *(argument.format(tmp=tmp_path) for argument in arguments))
