"""What a person reads in the terminal: 80 columns, the audit's own numbers, safe with any name."""

import dataclasses
import io
import os
import re
from typing import Any

import pytest
from rich.console import Console

from intruders.audits.result.audit_result import Audit
from intruders.checkpoints.pairing.pairing import Skipped
from intruders.cli.output import progress_bar
from intruders.cli.standard_streams import ready_streams
from intruders.reports.audit import print_audit, shade, strip_lines
from intruders.reports.terminal import Page
from tests.made_up import BERT, GPT2, LLAMA, made_up_audit

ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def printed(audit: Audit, verbose: bool = False, encoding: str = "utf-8", width: int = 80, **how: Any) -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    print_audit(audit, Page(Console(file=file, width=width, **how)), verbose=verbose)
    return raw.getvalue().decode(encoding)


LONG = {"a_container_with_a_long_name.and_another_one.the_projection_matrix_of_everything": (1.0, 1.0)}

AUDITS = {
    "llama": made_up_audit(30),
    "none": made_up_audit(30, intruder_rate=0, rank=16),
    "7b": made_up_audit(
        32, width=4096, intruder_rate=0.6, tuned="/home/someone/" + "experiments/" * 9 + "run"
    ),
    "bert": made_up_audit(6, BERT, width=384, prefix="encoder.layer", rank=None),
    "gpt2": made_up_audit(12, GPT2, width=768, prefix="transformer.h"),
    "long": made_up_audit(80, LONG, prefix="base_model.language_model.model.decoder.layers_of_it"),
    "405b": made_up_audit(126, {"self_attn.q_proj": LLAMA["self_attn.q_proj"]}, width=1024),
    "one": made_up_audit(1, {"fc": (1.0, 1.0)}, width=4, intruder_rate=1.0, prefix="h"),
}


@pytest.mark.parametrize("name", AUDITS)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize(("verbose", "width"), [(False, 80), (True, 80), (False, 60)])
def test_it_fits_the_terminal(name: str, encoding: str, verbose: bool, width: int) -> None:
    lines = printed(AUDITS[name], encoding=encoding, verbose=verbose, width=width).splitlines()
    # A command is not cut: a line with a long path in it is as long as that.
    lines = [line for line in lines if not line.startswith("  ") or AUDITS[name].tuned_source not in line]
    if verbose:  # skipped tensors are listed with their whole names
        lines = lines[: next(i for i, line in enumerate(lines) if line.startswith("skipped:"))]
    assert max(map(len, lines)) <= width


def test_module_types_stay_whole_in_60_columns() -> None:
    """Columns of numbers give way to the names that tell what the numbers are of."""
    for name, kind in {"llama": "gate_proj", "bert": "attention.output.dense"}.items():
        kinds = printed(AUDITS[name], width=60).partition("module ")[2].partition("energy:")[0]
        assert kind in kinds
        assert "\N{HORIZONTAL ELLIPSIS}" not in kinds


def test_the_strip_runs_from_the_first_layer_to_the_last() -> None:
    strip = {3: 0, 5: 1, 6: 8, 7: 4}
    assert strip_lines(strip, most=8) == ["layer 3 |  --░░██▒▒| 7"]
    assert [len(line) for line in strip_lines(dict.fromkeys(range(126), 1), most=1)] == [75, 76, 22]
    assert "layer  0 |" in printed(AUDITS["llama"])


def test_a_single_intruder_is_never_shown_as_none() -> None:
    assert [shade(count, 10_000) for count in (0, 1, 10_000)] == [" ", "░", "█"]


def test_the_worst_matrices_are_named_and_verbose_names_all() -> None:
    audit = AUDITS["llama"]
    most = max(audit.matrices, key=lambda matrix: (matrix.intruders, matrix.intruder_energy_share))
    assert most.name in printed(audit)
    verbose = printed(audit, verbose=True)
    assert all(matrix.name in verbose for matrix in audit.matrices)
    assert all(skipped.name in verbose for skipped in audit.skipped)


def test_names_that_do_not_fit_still_tell_the_layer() -> None:
    assert re.search(r"^layer \d+ the_proj", printed(AUDITS["long"]), re.MULTILINE)


def test_skipped_tensors_are_counted_by_reason() -> None:
    reasons = ["one-dimensional"] * 3 + ["other shape: (4, 4) and (5, 4)", "other shape: (2, 2) and (9, 2)"]
    audit = dataclasses.replace(AUDITS["one"], skipped=[Skipped(f"t{i}", r) for i, r in enumerate(reasons)])
    assert "skipped:    3 one-dimensional, 2 other shape" in printed(audit)


def test_decisions_and_ambiguous_ones_are_counted() -> None:
    audit = AUDITS["llama"]
    frame = audit.to_pandas()
    [line] = [line for line in printed(audit).splitlines() if line.startswith("decided by")]
    assert f"overlap {(frame['certificate'] == 'overlap').sum():,}" in line
    assert line.endswith(f"{frame['ambiguous'].sum()} ambiguous")


def test_colour_adds_nothing_but_colour() -> None:
    coloured = printed(AUDITS["bert"], force_terminal=True, color_system="standard")
    assert "\x1b[" in coloured
    assert ANSI.sub("", coloured) == printed(AUDITS["bert"])
    assert "\x1b" not in printed(AUDITS["bert"])


def test_progress_shows_matrices_and_the_running_count_on_a_terminal_alone() -> None:
    for is_terminal in (True, False):
        file = io.StringIO()
        with progress_bar(Console(file=file, force_terminal=is_terminal, width=80)) as update:
            update("audit, 0 intruders", 0, 210)
            update("audit, 1,234 intruders", 57, 210)
        shown = ANSI.sub("", file.getvalue())
        assert bool(shown) == ("audit, 1,234 intruders" in shown) == ("57/210" in shown) == is_terminal


def test_every_word_of_the_totals_is_printed_once_and_no_terminal_is_too_narrow() -> None:
    """A program that is given 20 columns has room for no layer beside the words."""
    audit = made_up_audit(6)
    for width in (*range(1, 41), 80):
        words = " ".join(printed(audit, width=width).split())
        assert words.count(f"{audit.intruders} intruder dimensions in {audit.vectors} vectors") == 1, width
    assert words.count("intruder dimensions") == 1


def test_a_terminal_of_no_columns_is_one_of_unknown_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "0")
    ready_streams()
    assert "COLUMNS" not in os.environ
