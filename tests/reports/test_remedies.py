"""What a comparison of remedies says: the sentence and its command, the table, the figures and the page."""

import math
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer

from intruders.cli.main import app
from intruders.reports.remedies import (
    comparison_charts,
    print_comparison,
    remarks,
    render_remedies,
    write_remedies_report,
)
from tests.reports.browsing import chromium, opened, serious_faults
from tests.reports.made_up_remedies import around, made_up_comparison, made_up_row, without_winner
from tests.reports.on_console import on_console


def printed(comparison: Any, width: int) -> str:
    return on_console(lambda page: print_comparison(comparison, page), width)


def typed(shell: str | None, command: str = "mitigate") -> dict[str, Any]:
    """What ``intruders`` reads of a command, which must be one that it understands."""
    assert shell is not None
    program, name, *arguments = shlex.split(shell)
    assert (program, name) == ("intruders", command)
    group: Any = typer.main.get_command(app)
    with group.commands[name].make_context(name, arguments) as context:
        return dict(context.params)


def test_the_winner_is_named_with_a_command_that_can_be_typed() -> None:
    comparison = made_up_comparison()
    assert comparison.sentence() == (
        "Use trim at density 0.2: its loss is 0.4 [0.35, 0.45] nats per token below that of interpolation at equal "
        "task loss. Its accuracy on word-problems is 0.80, the tuned model's 0.80."
    )
    given = typed(comparison.command())
    # No adapter holds single entries.
    wanted = {"tuned": "my adapter", "remedy": "trim", "strength": 0.2, "form": "checkpoint"}
    assert {name: given[name] for name in wanted} == wanted


def test_a_remedy_that_is_more_than_its_dose_comes_before_a_larger_gain() -> None:
    larger = made_up_row("fapm", 0.2, 3.8, around(0.5), controls=[])  # with no control that it could beat
    comparison = made_up_comparison()
    both = replace(comparison, remedies=[*comparison.remedies, larger])
    assert [one.name for one in both.better] == ["fapm", "trim"]
    assert both.sentence() == comparison.sentence()
    alone = [larger if one.name == "trim" else one for one in comparison.remedies]
    assert replace(comparison, remedies=alone).sentence().startswith("Use fapm at density 0.2")


def test_without_a_winner_interpolation_is_named() -> None:
    comparison = without_winner()
    text = "No remedy is clearly better than turning the update down: use interpolate at alpha 0.8."
    assert comparison.sentence().startswith(text)
    given = typed(comparison.command())
    assert (given["remedy"], given["strength"], given["form"]) == ("interpolate", 0.8, "auto")
    # What PEFT stores in full stays as tuned in an adapter, and was measured with its share.
    given = typed(replace(comparison, others=["model.norm.weight"]).command())
    assert given["form"] == "checkpoint"


@pytest.mark.parametrize("which", ["all", "top"])
def test_intruders_are_written_by_their_scale_and_other_settings_are_kept(which: str) -> None:
    comparison = made_up_comparison(remedies=[made_up_row("intruders", 0.25, 3.9, around(0.4))])
    settings = {**comparison.settings, "k": 5, "include": ["*.q_proj.*"], "which": which}
    chosen = replace(comparison, settings=settings)
    given = typed(chosen.command())
    assert (given["scale"], given["remedy"], given["k"], given["include"]) == (0.25, None, 5, ["*.q_proj.*"])
    assert given["which"] == which
    said = "intruders: only the one with the largest singular value of each matrix is scaled"
    assert (said in remarks(chosen)) == (which == "top")


@pytest.mark.parametrize("strength", [1.0, 0.75])
def test_doses_are_learned_again_on_the_same_data_and_written_at_their_strength(strength: float) -> None:
    comparison = made_up_comparison(remedies=[made_up_row("doses", strength, 3.9, around(0.4))])
    healing = {"max_documents": 9, "max_tokens": 192, "max_examples": 300, "estimate": False}
    settings = {**comparison.settings, "seed": 5, "data_seed": 0, "healing": healing}
    shell = replace(comparison, settings=settings).command("out")
    assert shell is not None
    first, *second = shell.split(" && ")
    given = typed(first, "heal")
    wanted = {"seed": 5, "data_seed": 0, "max_documents": 9, "max_tokens": 192, "max_examples": 300}
    assert {name: given[name] for name in wanted} == wanted
    assert str(given["out"]) == ("out" if strength == 1 else "out-doses")
    if strength == 1:
        assert not second
        return
    given = typed(second[0])
    assert (given["remedy"], given["strength"]) == ("doses", 0.75)
    assert (str(given["doses"]), str(given["out"])) == ("out-doses", "out")


@pytest.mark.parametrize("dtype", [{}, {"dtype": "bfloat16"}])
def test_what_is_computed_by_models_is_computed_again_in_their_type(dtype: dict[str, str]) -> None:
    """Surgery's sensitivities and the doses."""
    for remedy, command in (("surgery", "mitigate"), ("doses", "heal")):
        comparison = made_up_comparison(remedies=[made_up_row(remedy, 1.0, 3.9, around(0.4))])
        given = typed(replace(comparison, settings=comparison.settings | dtype).command(), command)
        assert given["dtype"] == dtype.get("dtype", "auto")


def test_a_dose_that_does_as_well_is_said() -> None:
    row = made_up_row("trim", 0.2, 3.9, around(0.4))
    weak = replace(row, controls=[replace(one, margin=around(0.01)) for one in row.controls])
    text = made_up_comparison(remedies=[weak]).sentence()
    assert "; the same dose without its directions is not clearly worse. Its accuracy on word" in text


def test_nothing_forgotten_is_nothing_to_heal() -> None:
    comparison = made_up_comparison(forgotten=around(0.01))
    assert "there is nothing to heal" in comparison.sentence()
    assert comparison.command() is None


@pytest.mark.parametrize("width", [80, 160])
def test_the_table_has_every_remedy_and_every_reason(width: int) -> None:
    text = printed(made_up_comparison(), width)
    assert max(len(line.rstrip()) for line in text.split("\n\n")[1].splitlines()) <= width
    assert "+0.400 [+0.350, +0.450]" in text
    assert "…" not in text
    assert "dg-hard: not measured: changes nothing: <b>median & threshold</b> are 0" in text
    assert "trim: 0.1 dropped in the first pass" in text
    assert "lines: 1 changes nothing in this model" in text
    scores = text.split("scores of tasks of lm-evaluation-harness\n")[1].splitlines()
    assert [line.split() for line in scores[:5]] == [
        ["remedy,", "strength", "arc_easy"],
        ["base", "0.480"],
        ["tuned", "0.450"],
        ["interpolate", "0.8", "0.456"],
        ["trim", "0.2", "0.461"],
    ]
    assert "better than interpolation at equal task loss: trim\nof these beyond their dose: trim\n" in text


def test_figures_show_the_chosen_points_beside_the_curve() -> None:
    over_task_loss, gains, _ = comparison_charts(made_up_comparison())
    curve = over_task_loss.series[0]
    assert (curve.x[0], curve.y[0], curve.x[-1], curve.y[-1]) == (4, 1, 1, 0)
    named = {one.name for one in over_task_loss.series if one.in_legend}
    assert named == {"interpolate", "trim 0.2", "lines 0.5"}
    assert gains.y.ticks == ["trim 0.2", "lines 0.5"]
    assert list(gains.series[0].x) == [0.4, -0.03]


def test_a_figure_of_the_share_healed_has_no_losses_in_it() -> None:
    """On the half that strengths are chosen on, tuning may not have clearly raised the loss: no share is known."""
    comparison = made_up_comparison()
    trim = comparison.remedies[1]
    unknown = replace(trim, tried=[replace(attempt, healed=None) for attempt in trim.tried])
    known = replace(trim, name="drop")
    over_task_loss, _, over_norm = comparison_charts(replace(comparison, remedies=[unknown, known]))
    for chart in (over_task_loss, over_norm):
        assert chart.y.title.startswith("forgetting healed")
        faint = {series.name: list(series.y) for series in chart.series if series.faint}
        assert faint == {"drop": [(5 - 3.9) / 3, pytest.approx((5 - 4.1) / 3)]}


@pytest.mark.parametrize("is_measured", [True, False])
def test_the_page_has_the_control_of_the_strongest_intruders_where_it_was_measured(is_measured: bool) -> None:
    row = made_up_row("intruders", 0.3, 3.9, around(0.4))
    neighbours = replace(row.controls[0], control="neighbours", margin=around(0.777))
    if is_measured:
        row = replace(row, controls=[*row.controls, neighbours])
    comparison = made_up_comparison(remedies=[row])
    text = re.sub(r"<script.*?</script>", "", render_remedies(comparison), flags=re.DOTALL)
    for part in ("neighbours</th>", "neighbours:", "+0.777 [+0.727, +0.827]"):
        assert (part in text) == is_measured
    assert ("neighbours" in printed(comparison, 160)) == is_measured


def test_the_page_sorts_numbers_that_javascript_reads() -> None:
    row = made_up_row("trim", 0.2, 3.9, around(math.inf))
    text = render_remedies(made_up_comparison(remedies=[row]))
    keys = re.findall(r'data-value="([^"]*)"', text)
    assert "Infinity" in keys
    # The number literals of JavaScript, and nothing for a cell without a number.
    assert [key for key in keys if not re.fullmatch(r"(-?(Infinity|\d+(\.\d+)?(e[+-]?\d+)?))?", key)] == []


@pytest.mark.browser
def test_the_page_draws_sorts_and_can_be_read(tmp_path: Path) -> None:
    written = write_remedies_report(made_up_comparison(), tmp_path)
    assert {path.suffix for path in written} == {".html", ".png", ".svg", ".csv"}
    with chromium() as browser, opened(browser, tmp_path / "report.html") as page:
        assert "Use trim at density 0.2" in page.locator("main").inner_text()
        assert page.locator(".plot .main-svg").count() >= 3
        page.locator("#table th button").nth(2).click()
        assert page.locator("#table tbody tr").first.inner_text().startswith("trim")
        assert "<b>median & threshold</b>" in page.locator("main").inner_text()
        rows = page.locator('[aria-label^="Tasks of lm-"] tbody tr')
        assert [rows.nth(row).inner_text().split() for row in (0, 3)] == [
            ["base", "0.48"],
            ["trim", "0.2", "0.461"],
        ]
        settings = page.locator("dl.facts").first.inner_text().split("\n")
        assert [settings[settings.index(key) + 1] for key in ("include", "exclude")] == ["all", "none"]
        assert serious_faults(page) == []
