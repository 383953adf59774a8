"""`intruders fleet` of a base that is prepared on a text: its table, its page, and the gate in nats."""

import json
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from intruders.models.loading import load_model
from tests.checkpoints.models import saved
from tests.commands import in_this_process, refusal
from tests.measures.test_prepare_nats import kept, text_of, tuned_of
from tests.mitigation.hot import hot_llama
from tests.tiny import save_llama


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, prepared in ``cache``; adapters that forget much, something and little, one of rank 1, and a norm."""
    made = tmp_path_factory.mktemp("fleet-nats")
    base = save_llama(made / "base")
    kept(str(base), text_of(made, 30), made / "cache", sequences=60)
    for name, gain, rank in (("much", 100, 2), ("some", 30, 2), ("little", 12, 2), ("rank", 30, 1)):
        saved(hot_llama(1, gain, load_model(str(base), "causal"), r=rank), made / name)
    tuned_of(base, made / "norm", 0.01, norm=True)
    lacking = load_file(tuned_of(base, made / "lacking", 0.01) / "model.safetensors")
    del lacking["model.layers.1.mlp.up_proj.weight"]
    save_file(lacking, made / "lacking" / "model.safetensors")
    return made


def fleet(folder: Path, out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return in_this_process("fleet", "base", *arguments, "--cache", "cache", "--out", out, cwd=folder)


def test_the_table_and_the_page_have_the_nats_and_the_most_comes_first(folder: Path, tmp_path: Path) -> None:
    done = fleet(folder, tmp_path / "out", "little", "rank", "much", "some", "--json", "fleet.json")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines[2:7])) <= 80
    assert lines[2].split() == ["adapter", "rank", "nats", "intruders", "of", "nats", "unusual"]
    assert [line.split()[0] for line in lines[3:7]] == ["much", "some", "little", "rank"]
    rows = {row["adapter"]: row for row in json.loads((folder / "fleet.json").read_text())["adapters"]}
    assert lines[3].split()[2:4] == [">", f"{rows['much']['nats_low']:.2g}"]  # too large for a number
    for line, row in zip(lines[4:6], (rows["some"], rows["little"]), strict=True):
        assert f" {row['nats']:.2g} [{row['nats_low']:.2g}, {row['nats_high']:.2g}] " in line
    assert lines[6].split()[2] == "-"
    assert "per token forgotten on" in done.stdout
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"{rows['some']['nats']:.2g} [{rows['some']['nats_low']:.2g}, " in page
    assert "0 refused" in lines[0]


@pytest.mark.parametrize(
    ("adapters", "limit", "status", "said"),
    [
        ("little some", "0.9", 0, None),
        ("little much some", "0.9", 1, "too much is forgotten by 1 adapter, the first 'much': "),
        ("little norm", "0.9", 1, "for 1 adapter, the first 'norm': 1 changed tensor such as model.norm"),
        ("norm", "0.9", 2, "error: --fail-above-nats has no answer for 1 adapter, the first 'norm'"),
        ("norm", "0", 1, "too much is forgotten by 1 adapter, the first 'norm': "),
        ("little rank", "0.9", 1, "the first 'rank': no nats are predicted of an update of rank 1"),
        (
            "little lacking",
            "0.9",
            1,
            "the first 'lacking': 1 matrix could not be compared, the first 'model.",
        ),
        ("base little", "0.9", 0, None),
    ],
)
def test_the_gate_says_of_each_what_the_audit_says(
    folder: Path, tmp_path: Path, adapters: str, limit: str, status: int, said: str | None
) -> None:
    gate = ("--fail-above-nats", limit, "--sarif", str(tmp_path / "fleet.sarif"))
    done = fleet(folder, tmp_path / "out", *adapters.split(), *gate)
    assert done.returncode == status, done.stderr
    assert said is None or said in done.stderr
    results = json.loads((tmp_path / "fleet.sarif").read_text())["runs"][0]["results"]
    audits = [("audit", "base", name, "--cache", "cache", *gate[:2]) for name in adapters.split()]
    alone = [in_this_process(*words, cwd=folder).returncode for words in audits]
    rules = [result["ruleId"] for result in results]
    assert (rules.count("nats-above-limit"), rules.count("refused")) == (alone.count(1), alone.count(2))


def test_without_a_prepared_base_the_gate_has_no_answer(folder: Path, tmp_path: Path) -> None:
    asked = ("fleet", "base", "some", "--no-cache", "--out", str(tmp_path / "out"), "--fail-above-nats")
    done = in_this_process(*asked, "0.9", cwd=folder)
    assert done.returncode == 2
    assert "the first 'some': no nats are predicted, because the base is not prepared" in done.stderr
    assert "nats" not in done.stdout
    assert "fail_above_nats is -1.0; expected nats per token, 0 or more" in refusal(*asked, "-1", cwd=folder)
