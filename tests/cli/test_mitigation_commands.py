"""mitigate, scale and intervene as a person types them."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from intruders.cli.audit import audit
from intruders.cli.evaluate import evaluate
from intruders.cli.intervene import intervene
from intruders.cli.mitigate import _DRAWN_BY_SEED, _SURGERY, mitigate
from intruders.cli.scale import scale
from intruders.errors import SettingError
from intruders.mitigation.remedies.every_remedy import PUBLISHED
from intruders.settings import settings_of
from tests.checkpoints.models import saved
from tests.mitigation.hot import hot_llama, merged_from
from tests.tiny import save_llama

app = typer.Typer()
for command in (audit, evaluate, mitigate, scale, intervene):
    app.command()(command)


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import AutoModelForCausalLM

    path = tmp_path_factory.mktemp("models")
    save_llama(path / "base")
    model = hot_llama(model=AutoModelForCausalLM.from_pretrained(path / "base"))
    saved(model, path / "tuned")
    return path


def test_mitigate(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    out = tmp_path / "out"
    text = run("mitigate", folder / "base", folder / "tuned", "--scale", 0.3, "--out", out, "--rank", "keep")
    assert "intruders scaled by 0.3" in text
    assert "largest relative error of an update from cutting its rank" in text
    assert text.endswith(f"written to {out}\n")
    assert merged_from(out, AutoModelForCausalLM.from_pretrained(folder / "base"))
    # The adapter names its base.
    text = run("mitigate", folder / "tuned", "--scale", 0.3, "--out", out, "--control", "shrink", "--force")
    assert text.startswith("control: updates shrunk to the norms")
    run(
        "mitigate",
        folder / "base",
        folder / "tuned",
        "--scale",
        0,
        "--as",
        "checkpoint",
        "--out",
        tmp_path / "whole",
    )
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "whole")


def test_the_commands_that_an_audit_ends_with_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measuring and the share of the update; tests of heal and scale run those two on data."""
    monkeypatch.chdir(tmp_path)
    printed = run("audit", folder / "base", folder / "tuned", "--no-cache", "--html", "report.html")
    proposed = [
        shlex.split(line.removeprefix(" " * 5))
        for line in printed.replace("\\\n", " ").splitlines()
        if line.startswith("     intruders ")
    ]
    assert [words[1] for words in proposed] == ["evaluate", "heal", "scale", "mitigate", "remedies"]
    by_name = {words[1]: words for words in proposed}
    (tmp_path / "text.txt").write_text("a text of some words\n\n" * 4)
    corpus = by_name["evaluate"].index("pydoc")
    by_name["evaluate"][corpus] = "text.txt"  # quicker than Python's documentation
    assert "change" in run(*by_name["evaluate"][1:])
    share = by_name["mitigate"].index("S")
    by_name["mitigate"][share] = "0.4"
    assert "written to interpolated" in run(*by_name["mitigate"][1:])
    config = json.loads((tmp_path / "interpolated" / "adapter_config.json").read_text())
    before = json.loads((folder / "tuned" / "adapter_config.json").read_text())
    assert config["r"] == before["r"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--scale", 0.5, "--mode", "smooth_abs"],
            "mode is 'smooth_abs', which only the remedy surgery takes",
        ),
        (
            ["--remedy", "lines", "--mode", "smooth_abs"],
            "mode is 'smooth_abs', which only the remedy surgery takes",
        ),
        (["--remedy", "lines", "--task", "words"], "task is 'words', which only the remedy surgery takes"),
        (["--scale", 0.5, "--seed", 0], "seed is 0, and nothing is drawn here"),
        (["--scale", 0.5, "--control", "shrink", "--seed", 3], "seed is 3, and nothing is drawn here"),
        (["--remedy", "lines", "--seed", 3], "seed is 3, and nothing is drawn here"),
        (
            ["--remedy", "surgery", "--task", "word-problems", "--seed", 3],
            "seed is 3, and nothing is drawn here",
        ),
    ],
)
def test_options_that_nothing_reads_are_refused(
    folder: Path, tmp_path: Path, options: list[object], message: str
) -> None:
    arguments = [folder / "base", folder / "tuned", *map(str, options), "--out", tmp_path / "out"]
    with pytest.raises(SettingError, match=message):
        run("mitigate", *arguments)
    assert not (tmp_path / "out").exists()


def test_remedies_that_draw_are_those_that_take_a_seed(folder: Path, tmp_path: Path) -> None:
    drawn = {name for name, remedy in PUBLISHED.items() if "seed" in settings_of(remedy)}
    assert drawn == {*_DRAWN_BY_SEED, _SURGERY}
    out = tmp_path / "out"
    run(
        "mitigate",
        folder / "base",
        folder / "tuned",
        "--scale",
        0.5,
        "--control",
        "random",
        "--seed",
        3,
        "--out",
        out,
    )
    assert out.is_dir()


def test_scale(folder: Path, tmp_path: Path) -> None:
    text = run("scale", folder / "base", folder / "tuned", "--no-cache", "--json", tmp_path / "scale.json")
    assert "largest update scale without intruders" in text
    assert max(len(line) for line in text.splitlines()) <= 100
    document = json.loads((tmp_path / "scale.json").read_text())
    assert document["intruders_at_largest_scale"] == 0
    assert len(document["matrices"]) == 14
    kept = tmp_path / "kept"
    same = json.loads(run("scale", folder / "base", folder / "tuned", "--json", "-", "--cache", kept))
    assert list(kept.rglob("*.safetensors"))
    assert same["largest_scale"] == pytest.approx(document["largest_scale"], rel=0.02)


def test_a_scale_that_is_named_is_written_without_a_search(folder: Path, tmp_path: Path) -> None:
    models = (folder / "base", folder / "tuned")
    text = run("scale", *models, "--no-cache", "--at", "0.5", "--out", tmp_path / "half")
    assert text.strip() == f"written to {tmp_path / 'half'} (adapter): the update of 14 matrices times 0.5"
    written = json.loads(run("scale", *models, "--at", "0.5", "--out", tmp_path / "json", "--json", "-"))[
        "written"
    ]
    assert (written["scale"], written["form"]) == (0.5, "adapter")
    again = run("scale", *models, "--no-cache", "--at", "0.5", "--out", tmp_path / "again", "--target", "0")
    assert "largest update scale without intruders" in again


def test_intervene(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("a text of some words\n\n" * 4)
    corpus = tmp_path / "rows.jsonl"
    corpus.write_text("".join(json.dumps({"text": f"row {i} of words"}) + "\n" for i in range(5)))
    text = run(
        "intervene", folder / "base", folder / "tuned", "--scales", "0,0.5,1", "--controls", "shrink",
        "--loss-on", corpus, "--json", tmp_path / "sweep.json",
    )  # fmt: skip
    assert "at scale 0.5 loss on" in text
    assert len(json.loads((tmp_path / "sweep.json").read_text())["points"]) == 4


def test_bad_numbers(folder: Path) -> None:
    with pytest.raises(SettingError, match="scales is 'a,b'"):
        run("intervene", folder / "base", folder / "tuned", "--scales", "a,b", "--loss-on", "pydoc")
