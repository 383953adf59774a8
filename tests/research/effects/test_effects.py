"""Effects of many studies: their verdicts, the forest plot and the table."""

import dataclasses
import hashlib
import io
import json
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest

from intruders.errors import ResultFileError, SettingError
from intruders_research.effects.forest_plot import LIGHT, effects_frame, forest_plot
from intruders_research.effects.read_effects import equal_effort, equal_score, read_effects
from intruders_research.effects.study_effect import StudyEffect
from intruders_research.effects.write_effects import conclusions, write_forest
from tests.commands import in_this_process
from tests.docs.pages import DOCS
from tests.studies.planted import run

DATA = DOCS / "results" / "data"
EFFECT = StudyEffect(
    claim="structure",
    where="tiny, words",
    effect="LoRA minus full",
    unit="intruders per 100 vectors",
    seeds=3,
    estimate=1.0,
    low=0.4,
    high=1.6,
    expected=1,
    tests=1,
    equal_score="yes",
    equal_effort="no",
    study="tiny",
    page="",
    data="kept",
)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, "supported"),
        ({"expected": -1}, "contradicted"),
        ({"expected": 0}, "reported"),
        ({"low": 0.0}, "undecided"),  # an interval that touches zero
        ({"low": -0.1}, "undecided"),
        ({"seeds": 1}, "undecided"),
        # For 3 seeds and 12 tests the quantile is t(2, 1 - 0.05 / 24) = 15.4 instead of 4.303: 0.27 becomes 0.97.
        ({"tests": 12, "low": 0.73, "high": 1.27}, "supported"),
        ({"tests": 12, "low": 0.70, "high": 1.30}, "undecided"),
        # What the analysis of a study decided stands.
        ({"decided": "undecided"}, "undecided"),
        ({"decided": "supported", "tests": 12}, "supported"),
    ],
)
def test_a_verdict_needs_an_interval_over_seeds_that_excludes_zero_among_all_tests(
    changes: dict[str, Any], wanted: str
) -> None:
    assert dataclasses.replace(EFFECT, **changes).verdict == wanted


def test_effects_of_one_claim_are_tested_together_also_where_they_agree(tmp_path: Path) -> None:
    """3 seeds, 1.0 with a half width of 0.8: p = 0.033, and 0.066 for two. The quantile is 6.205 instead of 4.303."""
    one = dataclasses.replace(EFFECT, low=0.2, high=1.8)
    write(tmp_path, [one])
    assert [effect.verdict for effect in read_effects(tmp_path)] == ["supported"]
    write(tmp_path, [one, dataclasses.replace(one, where="another")])
    assert [(effect.tests, effect.verdict) for effect in read_effects(tmp_path)] == [(2, "undecided")] * 2
    # Those of another study, of one seed, or without an expected sign are no tests of this claim.
    others = [
        dataclasses.replace(one, study="other"),
        dataclasses.replace(one, seeds=1),
        dataclasses.replace(one, expected=0),
    ]
    write(tmp_path, [one, *others])
    assert read_effects(tmp_path)[0].verdict == "supported"


def test_conclusions_count_the_verdicts_of_every_topic() -> None:
    effects = [
        EFFECT,
        dataclasses.replace(EFFECT, equal_effort="yes", low=-1.0, study="second"),
        dataclasses.replace(EFFECT, expected=-1),
        dataclasses.replace(EFFECT, expected=0),
        dataclasses.replace(EFFECT, claim="sequence", equal_effort="yes"),
    ]
    lines = conclusions(effects)
    assert len(lines) == 5
    assert lines[0] == (
        "- **LoRA leaves more intruders, or forgets more, than full fine-tuning at one score:** "
        "1 of 3 effects in 2 studies support it, "
        "1 contradict it, and 1 are undecided. At equal score and equal tuning effort, 0 of 1 support it."
    )
    assert lines[1].endswith("no effect was measured.")
    assert "1 of 1 effect in 1 study support it" in lines[4]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    effects = [
        EFFECT,
        dataclasses.replace(
            EFFECT, claim="rank", expected=-1, estimate=-0.2, low=-0.5, high=0.1, data="not kept"
        ),
        dataclasses.replace(EFFECT, unit="nats per token", seeds=1, where="a <b> & $c$"),
    ]
    write(tmp_path, effects)
    return tmp_path


def write(folder: Path, effects: list[StudyEffect]) -> None:
    rows = pd.DataFrame([vars(effect) for effect in effects]).drop(columns="decided")
    rows.to_csv(folder / "effects.csv", index=False)


def test_the_plot_shows_every_effect_for_light_and_dark_pages(folder: Path) -> None:
    given = (folder / "effects.csv").read_bytes()
    result = in_this_process("forest", folder, folder / "effects.svg")
    assert result.returncode == 0, result.stderr
    estimate = "-0.20 [-0.50, +0.10]".replace(" ", "\N{NO-BREAK SPACE}")
    assert f"| rank | tiny, words: LoRA minus full | {estimate} per 100 | < 0 | 3 |" in result.stdout
    assert "data of this study were not kept" in result.stdout
    for theme in ("light", "dark"):
        root = ElementTree.parse(folder / f"effects-{theme}.svg").getroot()
        text = [(element.text or "").strip() for element in root.iter("{http://www.w3.org/2000/svg}text")]
        assert "+1.00 [+0.40, +1.60]" in text
        assert "+1.00 (one seed)" in text
        assert "a <b> & $c$: LoRA minus full" in text
        assert text.count("supported") == 1
    assert (folder / "effects.csv").read_bytes() == given, "the effects themselves"
    numbers = pd.read_csv(folder / "effects-drawn.csv")
    assert list(numbers["verdict"]) == ["supported", "undecided", "undecided"]


def test_a_long_effect_is_drawn_complete_in_several_lines() -> None:
    """Two rates of one sequence differ by a word in the middle of a name."""
    where = "minilm-l6 on pydoc-topics-1, then sst2, then agnews, each method at its fastest rate"
    effects = [
        dataclasses.replace(EFFECT, where=name, effect="points forgotten, LoRA minus full")
        for name in (where, where.replace("fastest", "mildest"), "tiny")
    ]
    axes = forest_plot(effects, LIGHT).axes[0]
    written = [" ".join(text.get_text().split()) for text in axes.texts]
    for effect in effects:
        assert f"{effect.where}: {effect.effect}" in written
    rows = sorted({text.get_position()[1] for text in axes.texts})
    assert len(rows) == 3
    assert rows[1] - rows[0] > 1.5, "rows of several lines are further apart"


def test_what_cannot_be_drawn_is_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"ends in \.svg"):
        write_forest(folder, folder / "effects.png")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ResultFileError, match=r"has no effects\.csv and no folder of published tables"):
        read_effects(tmp_path / "nothing")
    lines = (folder / "effects.csv").read_text().splitlines()
    (folder / "effects.csv").write_text("\n".join([lines[0], lines[1].replace("0.4", "much")]))
    with pytest.raises(ResultFileError, match=r"line 2: .*expected a number"):
        read_effects(folder)
    (folder / "effects.csv").write_text("claim,where\n")
    with pytest.raises(ResultFileError, match="has the columns"):
        read_effects(folder)


def test_equal_score_and_equal_tuning_effort_follow_from_the_runs() -> None:
    rows = [run(f"{method}-{lr}", method=method, lr=lr) for method in ("lora", "full") for lr in (1e-4, 1e-3)]
    assert (equal_score(pd.DataFrame(rows)), equal_effort(pd.DataFrame(rows))) == ("yes", "yes")
    # A study of sequences alone has no fine-tuning of one task.
    sequences = pd.DataFrame(rows).assign(kind="sequence")
    assert (equal_score(sequences, "sequence"), equal_effort(sequences, "sequence")) == ("yes", "yes")
    assert (equal_score(sequences), equal_effort(sequences)) == ("no", "no")
    fewer = pd.DataFrame(rows[:3])
    assert equal_effort(fewer) == "no", "full fine-tuning had one rate"
    replayed = pd.DataFrame([*rows, rows[0] | {"replay": "pydoc@0.25"}])
    assert equal_effort(replayed) == "no", "replay had one rate"
    missed = pd.DataFrame([*rows[:3], rows[3] | {"stopped_by": "steps"}])
    assert equal_score(missed) == "part"


def test_a_published_study_is_linked_to_its_page_and_has_no_row_of_what_was_not_measured(
    tmp_path: Path,
) -> None:
    data = tmp_path / "data" / "minilm"
    shutil.copytree(DATA / "minilm", data)
    assert {effect.page for effect in read_effects(tmp_path / "data")} == {"data/minilm/study.yaml"}
    (tmp_path / "minilm.md").write_text("# Page\n")
    effects = read_effects(tmp_path / "data")
    assert {effect.page for effect in effects} == {"minilm.md"}
    findings = json.loads((data / "findings.json").read_text())
    (dynamics,) = (finding for finding in findings["findings"] if finding["name"] == "dynamics")
    dynamics["answers"][0]["estimate"] = None
    content = json.dumps(findings).encode()
    (data / "findings.json").write_bytes(content)
    record = json.loads((data / "published.json").read_text())
    record["files"]["findings.json"] = hashlib.sha256(content).hexdigest()
    (data / "published.json").write_text(json.dumps(record))
    assert len(read_effects(tmp_path / "data")) == len(effects) - 1


def test_the_docs_have_what_the_command_prints_and_writes() -> None:
    """`intruders forest docs/results/data docs/figures/effects.svg` does both."""
    effects = read_effects(DATA)
    page = (DOCS / "results" / "summary.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in conclusions(effects) if line not in page] == []
    drawn = pd.read_csv(DOCS / "figures" / "effects-drawn.csv")
    made = pd.read_csv(io.StringIO(effects_frame(effects).to_csv(index=False)))
    pd.testing.assert_frame_equal(drawn, made, rtol=1e-6)
