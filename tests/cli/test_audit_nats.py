"""`intruders prepare --loss-on`, and what `intruders audit` then says, writes and exits with."""

import json
import math
import re
from pathlib import Path

import pytest
import torch

from intruders.audits.result.audit_result import Audit
from intruders.models.loading import load_model
from tests.checkpoints.models import saved
from tests.commands import in_this_process, printed, refusal
from tests.measures.test_prepare_nats import text_of, tuned_of
from tests.mitigation.hot import hot_llama
from tests.tiny import save_llama


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("nats")
    save_llama(made / "base")
    tuned_of(made / "base", made / "tuned", 0.05)
    tuned_of(made / "base", made / "more", 0.05, norm=True)
    text_of(made, 30)
    done = in_this_process(*("prepare", "base", "--loss-on", "30-40.jsonl", "--out", "cache"), cwd=made)
    assert done.returncode == 0
    assert "gradients on 30-40.jsonl: 32 sequences of 32 tokens from 30 documents, 0.00 GiB" in done.stderr
    assert "audits predict the nats forgotten on 30-40.jsonl" in done.stdout
    return made


def test_the_first_lines_say_it_or_the_last_how_to_get_it(folder: Path) -> None:
    text = printed("audit", "base", "tuned", "--cache", "cache", "--html", "a.html", cwd=folder)
    lines = " ".join(text.splitlines()[2:6])
    said = r"predicted: 0\.0\d+ nats per token \[0\.0\d+, 0\.\d+\] forgotten on 30-40\.jsonl \(KL\)"
    assert re.search(said, lines)
    assert re.search(r"[\d.]+ % of it in the 14 matrices with intruders", lines)
    assert "The nats above are predicted." in text
    page = (folder / "a.html").read_text()
    assert "forgotten on 30-40.jsonl (KL)" in page
    assert 'id="nats-plot"' in page
    text = printed("audit", "base", "tuned", "--no-cache", cwd=folder)
    assert "predicted" not in text
    assert text.splitlines()[-1].startswith("prepare --loss-on adds nats")


@pytest.mark.parametrize(("limit", "status"), [("0", 1), ("1", 0)])
def test_the_gate_fails_where_the_lower_end_is_above(folder: Path, limit: str, status: int) -> None:
    files = ("--sarif", "a.sarif", "--json", "a.json")
    asked = ("audit", "base", "tuned", "--cache", "cache", "--fail-above-nats", limit, *files)
    done = in_this_process(*asked, cwd=folder)
    assert done.returncode == status
    said = "nats per token are predicted to be forgotten on 30-40.jsonl, with 95 % confidence more than the 0 that"
    assert (said in done.stderr) == (status == 1)
    results = json.loads((folder / "a.sarif").read_text())["runs"][0]["results"]
    assert ("nats-above-limit" in [result["ruleId"] for result in results]) == (status == 1)
    forgetting = Audit.load(folder / "a.json").forgetting
    assert forgetting is not None
    assert forgetting.is_above(float(limit)) == (status == 1)


def test_a_gate_without_an_answer_is_refused(folder: Path) -> None:
    asked = ("--fail-above-nats", "1", "--sarif", "a.sarif")
    done = in_this_process("audit", "base", "tuned", "--no-cache", *asked, cwd=folder)
    assert done.returncode == 2
    assert "--fail-above-nats has no answer: no nats are predicted, because the base is not" in done.stderr
    done = in_this_process("audit", "base", "more", "--cache", "cache", *asked, cwd=folder)
    assert done.returncode == 2
    assert "1 changed tensor such as model.norm.weight are not counted" in done.stderr
    results = json.loads((folder / "a.sarif").read_text())["runs"][0]["results"]
    assert "refused" in [result["ruleId"] for result in results]


def test_of_nothing_compared_a_gate_has_no_answer_and_of_nothing_changed_it_passes(folder: Path) -> None:
    asked = ("--fail-above-nats", "0", "--cache", "cache", "--skip-non-finite")
    assert in_this_process("audit", "base", "base", *asked, cwd=folder).returncode == 0
    model = load_model(str(folder / "base"), "causal")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "_proj" in name:
                weight[0, 0] = math.nan
    model.save_pretrained(folder / "broken")
    done = in_this_process("audit", "base", "broken", *asked, cwd=folder)
    assert done.returncode == 2
    assert "--fail-above-nats has no answer: no matrix could be compared" in done.stderr


def test_of_rank_1_the_reason_is_the_rank(folder: Path) -> None:
    """Preparing the base would not help, and nothing proposes it."""
    saved(hot_llama(5, model=load_model(str(folder / "base"), "causal"), r=1), folder / "of rank 1")
    for cache in (("--no-cache",), ("--cache", "cache")):
        done = in_this_process("audit", "base", "of rank 1", *cache, "--fail-above-nats", "1", cwd=folder)
        assert done.returncode == 2
        assert "--fail-above-nats has no answer: no nats are predicted of an update of rank 1" in done.stderr
        assert "prepare" not in done.stdout + done.stderr
        said = refusal("scale", "base", "of rank 1", *cache, "--nats", "0.1", cwd=folder)
        assert "--nats has no answer: no nats are predicted of an update of rank 1" in said


@pytest.mark.parametrize("form", ["adapter", "checkpoint"])
def test_the_upper_end_of_what_is_written_at_a_scale_in_nats_is_the_limit(folder: Path, form: str) -> None:
    """As an audit of the written model predicts it, which knows nothing of the scale."""
    saved(hot_llama(4, 0.3, load_model(str(folder / "base"), "causal")), folder / "strong")
    before = Audit.load(audited(folder, "strong")).forgetting
    assert before is not None
    limit = before.kl.high / 3
    asked = ("--nats", repr(limit), "--out", form, "--as", form, "--json", "scale.json")
    said = printed("scale", "base", "strong", "--cache", "cache", *asked, cwd=folder)
    assert f"written to {form} ({form}): the update of 14 matrices times 0.577" in said
    assert "largest update scale within" in said
    after = Audit.load(audited(folder, form)).forgetting
    assert after is not None
    assert after.kl.high == pytest.approx(limit, rel=1e-3)
    written = json.loads((folder / "scale.json").read_text())
    assert written["nats"]["scale"] == written["written"]["scale"] == pytest.approx(3**-0.5)


def test_a_scale_in_nats_is_at_most_the_whole_update(folder: Path) -> None:
    asked = ("scale", "base", "tuned", "--cache", "cache", "--nats", "1")
    lines = printed(*asked, cwd=folder).splitlines()
    assert lines[0].startswith("the complete update (1) stays within 1 nats per token, by the upper end of")
    predicted = r"of the complete update, predicted: 0\.0\d+ nats per token \[0\.0\d+, 0\.\d+\]"
    assert re.match(predicted, lines[1])
    assert json.loads(printed(*asked, "--json", "-", cwd=folder))["nats"]["scale"] == 1
    lines = printed("scale", "base", "more", "--cache", "cache", "--nats", "1", cwd=folder).splitlines()
    assert lines[1].endswith("; not counted: 1 changed tensor such as model.norm.weight")


def audited(folder: Path, tuned: str) -> Path:
    printed("audit", "base", tuned, "--cache", "cache", "--json", f"{tuned}.json", cwd=folder)
    return folder / f"{tuned}.json"


def test_rows_are_not_sent_to_a_url(folder: Path) -> None:
    said = refusal("prepare", str(folder / "base"), "--loss-on", "pydoc", "--out", "memory://bases")
    assert "out is 'memory://bases', and --loss-on keeps gradients in a folder alone; pass a folder" in said
