"""The report of a study: its figures hold the tables' numbers, its words the verdicts, and gaps do not stop it."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from intruders.audits.result.audit_result import Audit
from intruders.charts.chart import Axis, Chart, Grid, Series
from intruders.charts.drawing import draw_chart, picture, write_drawings
from intruders.errors import ResultFileError, SettingError
from intruders.measures.intervals import Interval
from intruders.reports.html_page import sort_key
from intruders.reports.study import page_table, run_table
from intruders.studies.results import Results
from intruders_research.claim_names import CLAIMS
from intruders_research.claims import every_claim
from intruders_research.claims.every_claim import charts_of
from intruders_research.claims.shared.claim import Effect, Finding, Where
from intruders_research.claims.shared.pictures import Palette
from intruders_research.claims.threshold import MOST_POINTS
from intruders_research.pages import study_page
from intruders_research.pages.effect_rows import effect_groups, effect_text, parts_text
from intruders_research.pages.similarities import similarity_rows
from intruders_research.pages.study_page import render_study, study_drawings, write_study_report
from intruders_research.pages.study_words import study_words
from tests.research.pages.made_up_study import SEEDS

Study = tuple[Results, list[Finding]]


@pytest.fixture(scope="module")
def drawings(study: Study) -> list[Chart | Grid]:
    return study_drawings(*study)


def drawn(drawings: Sequence[Chart | Grid], name: str) -> pd.DataFrame:
    [found] = [drawing.frame() for drawing in drawings if drawing.name == name]
    return found


def table(study: Study, analysis: str, title: str) -> pd.DataFrame:
    [found] = [finding.tables[title] for finding in study[1] if finding.name == analysis]
    return found


def test_every_analysis_has_figures_and_no_two_have_one_name_or_file(
    study: Study, drawings: list[Chart | Grid], tmp_path: Path
) -> None:
    assert all(charts_of(study[1])[name] for name in CLAIMS)
    names = [drawing.name for drawing in drawings]
    assert len(names) == len(set(names))
    for path in write_drawings(drawings[::10], tmp_path):
        assert path.stat().st_size > 0


def test_intruders_over_epsilon_are_those_of_the_audits(study: Study, drawings: list[Chart | Grid]) -> None:
    results = study[0]
    curve = drawn(drawings, "structure-over-epsilon")
    runs = results.runs[(results.runs["experiment"] == "matched") & (results.runs["method"] == "pissa")]
    audits = [Audit.load(results.folder / "runs" / run / "audit.json") for run in runs["run_id"]]
    assert len(audits) == len(SEEDS)
    at = curve[(curve["series"].str.startswith("pissa")) & np.isclose(curve["epsilon"], 0.3)]
    least, most = (
        100 * sum(a.count(epsilon=0.3)[i] for a in audits) / sum(a.vectors for a in audits) for i in (0, 1)
    )
    assert at["intruders_per_100_vectors_low"].item() == pytest.approx(least)
    assert at["intruders_per_100_vectors_high"].item() == pytest.approx(most)
    assert most > least


def test_the_accuracy_matrix_is_the_mean_over_seeds(study: Study, drawings: list[Chart | Grid]) -> None:
    [grid] = [d.frame() for d in drawings if d.name.startswith("sequence-accuracy") and "r-1-" in d.name]
    sequences = study[0].sequences
    of_rank_1 = sequences[sequences["run_id"].str.contains("lora-1-")]
    expected = of_rank_1.groupby(["stage", "task_index"])["accuracy"].mean()
    assert len(grid) == len(expected) == 6  # nothing after a stage for a task that was not trained yet
    for row in grid.to_dict("records"):
        at = "abc".index(row["after training on"]), "abc".index(row["tested on"])
        assert row["accuracy"] == pytest.approx(expected[at])


def test_interventions_start_from_the_tuned_model_and_are_the_tables(
    study: Study, drawings: list[Chart | Grid]
) -> None:
    by_scale = table(study, "intervention", "By scale")
    [chart] = [
        d.frame()
        for d in drawings
        if d.name.startswith("intervention-lora-r-1-alpha-16-") and "loss" in d.name
    ]
    assert set(chart.loc[chart["scale"] == 1, "loss_change"]) == {0.0}
    expected = by_scale[
        by_scale["setting"].str.startswith("lora r=1 alpha=16")
        & (by_scale["measure"] == "loss") & (by_scale["control"] == "shrink") & (by_scale["scale"] < 1)
    ]  # fmt: skip
    shrink = chart[chart["series"].str.contains("same norm") & (chart["scale"] < 1)]
    assert list(shrink["loss_change"]) == list(expected.sort_values("scale")["change"])


def test_other_figures_hold_their_tables(study: Study, drawings: list[Chart | Grid]) -> None:
    for name, analysis, title, column, of_table in [
        ("structure-settings", "structure", "Intruders by setting", "intruders_per_100_vectors", None),
        ("structure-over-k", "structure", "Intruders over k", "intruders_per_matrix", None),
        ("forgetting-intruders", "forgetting", "Runs", "intruders", None),
        ("forgetting-intruders", "forgetting", "Runs", "loss_change_low", None),
        ("forgetting-norm", "forgetting", "Runs", "update_frobenius", None),
        ("dynamics-intruders", "dynamics", "By step", "intruders_per_100_vectors", None),
        ("dynamics-norm", "dynamics", "By step", "update_frobenius", None),
        ("sequence-forgetting", "sequence", "By setting", "forgetting_points", None),
        ("causes-settings", "causes", "One setting at a time", "change_per_100_vectors", None),
        ("causes-norm", "causes", "LoRA and full by update norm", "update_frobenius", None),
        ("causes-random", "causes", "Random rank-one term", "share_with_intruders", "predicted_share"),
    ]:
        rows = table(study, analysis, title)
        expected = list(rows[column]) + ([] if of_table is None else list(rows[of_table]))
        assert sorted(drawn(drawings, name)[column]) == sorted(expected), name
    ranks = table(study, "rank", "By rank")
    loss = ranks[ranks["measure"] == "pre-training loss change"]
    assert sorted(drawn(drawings, "rank-loss")["loss"]) == sorted(loss["value"])
    pareto = drawn(drawings, "remedies-pareto")
    remedies = table(study, "remedies", "Remedies").dropna(subset=["points_lost", "saved"])
    points = pareto[pareto["series"].isin(remedies["kind"])]
    names = ["points_lost", "saved", "saved_low", "saved_high"]
    assert sorted(map(tuple, points[names].to_numpy())) == sorted(map(tuple, remedies[names].to_numpy()))


def test_more_matrices_than_a_page_can_draw_are_thinned_evenly(study: Study) -> None:
    [finding] = [finding for finding in study[1] if finding.name == "threshold"]
    many = pd.concat([finding.tables["Matrices"]] * 20, ignore_index=True)
    larger = dataclasses.replace(finding, tables={"Matrices": many})
    agreement = next(chart for chart in charts_of([larger])["threshold"] if isinstance(chart, Chart))
    assert len(agreement.frame()) == MOST_POINTS
    assert f"{MOST_POINTS:,} of" in agreement.caption


def test_full_fine_tuning_has_one_colour_and_settings_are_told_apart() -> None:
    palette = Palette()
    settings = [f"lora r={rank}" for rank in range(20)] + ["full lr=1e-5", "full lr=1e-4"]
    tones = [palette.tone(setting) for setting in settings]
    assert len(set(tones)) == len(tones)
    assert {tone % 6 for tone in tones[-2:]} == {5}
    assert 5 not in {tone % 6 for tone in tones[:-2]}


def test_an_interval_without_ends_is_drawn_as_a_point() -> None:
    series = Series("a", [1.0, 2.0], [1.0, 2.0], [-math.inf, 1.5], [math.inf, 2.5])
    chart = Chart("c", "C", Axis("x", "x"), Axis("y", "y"), [series])
    assert chart.payload()["series"][0]["low"] == [None, 1.5]
    assert picture(draw_chart(chart), "png").startswith(b"\x89PNG")


def test_similarities_are_of_one_seed_and_begin_with_the_example(study: Study) -> None:
    results = study[0]
    examples = table(study, "structure", "Similarity matrices")
    [row] = similarity_rows(results, examples)
    assert set(examples["run_id"]) <= set(row.run_ids)
    assert len({run[-1] for run in row.run_ids}) == 1
    assert row.audits[0].matrices[0].name == examples["matrix"].iloc[0]
    payload = row.payload()
    assert payload["matrices"] == [matrix.name for matrix in row.audits[0].matrices]
    assert len({tuple(m.name for m in audit.matrices) for audit in row.audits}) == 1


def test_a_study_without_audits_has_no_similarities(study: Study, tmp_path: Path) -> None:
    moved = dataclasses.replace(study[0], folder=tmp_path)
    assert similarity_rows(moved, table(study, "structure", "Similarity matrices")) == []
    assert similarity_rows(study[0], None) == []


def test_tables_say_numbers_as_people_read_them() -> None:
    frame = pd.DataFrame(
        {
            "base": ["b", "b", "b"],
            "setting": ["x", "<b>", "z"],
            "per_100": [0.123456, math.nan, math.inf],
            "rank": [8, 16, 4096],
            "critical_scale": [0.5, math.inf, 1.0],
            "high": [math.inf, 2.5, 1.0],
            "shown": [True, False, None],
        }
    )
    shown = page_table("T", frame, most=2)
    assert shown.headings == ["setting", "per 100", "rank", "critical scale", "high", "shown"]
    assert shown.throughout == "base b"
    assert shown.numeric == [False, True, True, True, True, False]
    assert [[cell.text for cell in row] for row in shown.rows] == [
        ["x", "0.123", "8", "0.5", "-", "yes"],
        ["<b>", "-", "16", "none found", "2.5", "no"],
    ]
    assert [sort_key(row[1].value) for row in shown.rows] == ["0.123456", ""]
    # As JavaScript's Number reads them, for which `inf` is none: above all others.
    assert [sort_key(row[3].value) for row in shown.rows] == ["0.5", "Infinity"]
    assert (len(shown.rows), shown.total) == (2, 3)


def test_the_table_of_runs_leaves_out_what_does_not_apply(study: Study) -> None:
    shown = run_table(study[0].runs)
    by_run = {row[-1].text: dict(zip(shown.headings, row, strict=True)) for row in shown.rows}
    assert len(by_run) == len(study[0].runs)
    full = next(row for run, row in by_run.items() if run.startswith("matched-full"))
    assert (full["rank"].text, full["alpha"].text, full["rate"].text) == ("-", "-", "5e-05")
    assert by_run["term-0"]["method"].text == "-"


def test_rates_and_alphas_of_runs_are_sorted_by_their_numbers() -> None:
    """Their texts would put 5e-05 behind 0.0001; an alpha that is a rule, such as 2r, has no number."""
    rates, alphas = [1e-4, 5e-5, 1e-3], [16, "2r", 8]
    frame = pd.DataFrame({"method": "lora", "kind": "train", "rank": 8, "alpha": alphas, "lr": rates})
    shown = run_table(frame)
    rate, alpha = (shown.headings.index(name) for name in ("rate", "alpha"))
    assert shown.numeric[rate]
    assert shown.numeric[alpha]
    assert [row[rate].text for row in shown.rows] == ["0.0001", "5e-05", "0.001"]
    assert [float(sort_key(row[rate].value)) for row in shown.rows] == rates
    assert [(row[alpha].text, sort_key(row[alpha].value)) for row in shown.rows] == [
        ("16", "16"),
        ("2r", ""),
        ("8", "8"),
    ]


def finding(name: str, shown: bool | None) -> Finding:
    effect = Effect(Where("base", "task"), "the effect", Interval(1.5, 0.5, 2.5))
    return Finding(name, "Q?", "C.", "V", shown, [] if shown is None else [effect])


def test_words_count_what_is_shown_and_write_every_digit_of_a_seed(study: Study) -> None:
    """Of 2024 and 20241129 three digits would be 2020 and 2.02e+07."""
    seeds = study[0].runs["seed"].map({0: 1337, 1: 2024, 2: 20241129})
    results = dataclasses.replace(study[0], runs=study[0].runs.assign(seed=seeds))
    some = study_words(
        results, [finding("structure", True), finding("forgetting", False), finding("rank", None)]
    )
    assert "Study made-up: 66 of 67 runs finished, 3 questions" in some.title
    assert "LoRA left more of them than full" in some.plain
    assert "forgot" not in some.plain
    assert "1 is supported, 1 is contradicted and 1 is not run" in some.plain
    assert "67 runs (66 finished, 1 failed)" in some.precise
    assert "seeds 1337, 2024 and 20241129; k = 10; ε = 0.5" in some.precise
    assert "base on task: the effect 1.5 [0.5, 2.5]" in some.precise
    none = study_words(results, [finding("structure", False)])
    assert "These runs support none of the claims." in none.plain
    never = study_words(results, [finding("structure", None)])
    assert never.plain.startswith("These runs cannot tell yet")


def decided(what: str, low: float, high: float, *, part: str = "", seeds: int = 3) -> Effect:
    on = Where("base", "task", part)
    return Effect(on, what, Interval((low + high) / 2, low, high), expected=1, seeds=seeds, needed="9 lives")


def test_every_effect_of_a_claim_has_its_verdict(study: Study) -> None:
    """One of three effects is supported: the page and its words do not say undecided of all of them."""
    effects = [
        decided("risen", 0.5, 1.5, part="fast"),
        decided("risen", -0.5, 1.5, part="mild"),
        dataclasses.replace(decided("fallen", math.nan, math.nan, part="fast"), needed="two ranks"),
    ]
    reported = dataclasses.replace(decided("seen", 0.5, 1.5, part="mild"), expected=None)
    several = dataclasses.replace(
        finding("structure", False), answers=effects, effects=[*effects[:2], reported]
    )
    groups = effect_groups(several)
    assert list(groups) == ["base on task, fast", "base on task, mild"]
    told = [(e.measured, e.side, e.verdict, e.lacking) for effects in groups.values() for e in effects]
    assert told == [
        ("risen", "above 0", "supported", ""),
        ("fallen", "above 0", "undecided", "two ranks"),
        ("risen", "above 0", "undecided", "9 lives"),
        ("seen", "", "reported", ""),
    ]
    assert effect_text(groups["base on task, fast"][0]) == "1 [0.5, 1.5]"
    page = render_study(study[0], [several])
    assert page.count("1 supported, 2 undecided of 3 effects") == 1  # its verdict has one sentence
    assert "Of the 3 effects of claims without support, 1 is supported." in page
    assert parts_text(finding("structure", True)) == ""


def test_a_verdict_on_several_bases_is_a_list(study: Study) -> None:
    several = dataclasses.replace(
        finding("structure", None), verdict="Undecided: on A, 1; on B, 2", sentences=["on A, 1", "on B, 2"]
    )
    page = render_study(study[0], [several])
    assert "These runs: Undecided.</p>" in page
    assert "<li>on A, 1</li><li>on B, 2</li>" in page


def test_effects_that_the_overview_has_no_room_for_are_counted(study: Study) -> None:
    [structure] = [finding for finding in study[1] if finding.name == "structure"]
    many = [
        Effect(Where(f"base {number}", "task"), "intruders", Interval(1.0, 0.5, 1.5)) for number in range(9)
    ]
    page = render_study(study[0], [dataclasses.replace(structure, effects=many)])
    overview = page[page.index('id="overview"') : page.index("The claims are those of the paper")]
    assert [f"base {number} on task" in overview for number in range(9)] == [True] * 6 + [False] * 3
    assert "and 3 more, in its section" in overview
    assert "; and 6 more below" in page[: page.index('id="overview"')]


def test_the_size_of_the_page(study: Study) -> None:
    assert len(render_study(*study).encode()) < 6e6


def test_the_page_is_in_the_studys_own_folder_unless_it_is_named(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = study[0].folder
    # As it finds again in what is stored: the published studies are analysed from their folders.
    monkeypatch.setattr(every_claim, "analyse_all", lambda *_: study[1])
    assert write_study_report(folder) == [folder / "report.html"]
    (folder / "report.html").unlink()
    out = tmp_path / "r.html"
    assert write_study_report(folder, out) == [out]
    assert "<title>Study made-up: 66 of 67 runs finished, 11 questions" in out.read_text(encoding="utf-8")


def test_what_does_not_go_with_a_study_is_refused(study: Study, tmp_path: Path) -> None:
    folder, out = study[0].folder, tmp_path / "r.html"
    with pytest.raises(ResultFileError, match="does not exist; make it first"):
        write_study_report(folder, tmp_path / "no" / "r.html")
    with pytest.raises(ResultFileError, match="is not the folder of a study"):
        write_study_report(tmp_path, out)
    (tmp_path / "study.json").write_text((folder / "study.json").read_text())
    with pytest.raises(SettingError, match="has no runs yet"):
        write_study_report(tmp_path, out)
    assert not out.exists()


def test_every_table_is_written_whole_beside_the_figures(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("study_drawings", "write_drawings"):  # they are written in a test of their own
        monkeypatch.setattr(study_page, name, lambda *_: [])
    monkeypatch.setattr(every_claim, "analyse_all", lambda *_: study[1])
    paths = write_study_report(study[0].folder, figures=tmp_path / "figures")
    assert not (study[0].folder / "report.html").exists()
    written = [path for path in paths if path.parent.name == "tables"]
    tables = [frame for finding in study[1] for frame in finding.tables.values() if len(frame)]
    assert len(written) == len(set(written)) == len(tables)
    assert [len(pd.read_csv(path)) for path in written] == [len(frame) for frame in tables]


def test_gains_over_interpolation_are_drawn_for_the_settings_that_forgot_most(
    study: Study, drawings: list[Chart | Grid]
) -> None:
    gains = table(study, "remedies", "Gain at equal task loss").dropna(subset=["gain"])
    drawn_of = [one.frame() for one in drawings if one.name.startswith("remedies-gain")]
    assert len(drawn_of) == 4
    assert gains["setting"].nunique() == 10
    changes = study[0].runs[study[0].runs["experiment"] == "matched"].groupby(["method", "rank", "alpha"])
    most = changes["loss_change"].mean().nlargest(4).index
    wanted = [f"{method} r={rank:g} alpha={alpha} " for method, rank, alpha in most]
    shown = gains[[name.startswith(tuple(wanted)) for name in gains["setting"]]]
    assert {name for data in drawn_of for name in data["remedy"]} == {"lines", "trim"}
    assert sorted(value for data in drawn_of for value in data["gain"]) == sorted(shown["gain"])
