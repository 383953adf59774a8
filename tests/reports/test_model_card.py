"""A model card keeps what a person wrote, and has what the audit found once."""

from dataclasses import replace
from pathlib import Path

import pytest

from intruders.errors import ResultFileError
from intruders.reports.model_card import BEGIN, END, card_section, write_card
from tests.made_up import made_up_audit

AUDIT = made_up_audit(2, width=32, base="HuggingFaceTB/SmolLM2-135M", tuned="/home/someone/runs/r1")
OTHER = made_up_audit(2, width=32, intruder_rate=0)
FRONT = "---\nlibrary_name: peft\nbase_model: HuggingFaceTB/SmolLM2-135M\ntags:\n  - lora   # mine\n---\n"


@pytest.mark.parametrize(
    "written",
    [
        "", FRONT, FRONT + "\n# My adapter\n\nText.\n", "# No end of line",
        "\ufeff# From Windows\r\n\r\nText.\r\n",
    ],
)  # fmt: skip
def test_two_calls_write_the_same_and_keep_what_was_there(written: str, tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_bytes(written.encode())
    write_card(AUDIT, card)
    first = card.read_bytes()
    assert first.startswith(written.encode())
    write_card(AUDIT, card)
    assert card.read_bytes() == first
    text = first.decode()
    assert text.count(BEGIN) == text.count(END) == 1
    if "\r\n" in written:
        assert text.count("\n") == text.count("\r\n")


def test_the_section_is_replaced_where_it_stands(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text(FRONT + "\n# Above\n", encoding="utf-8")
    write_card(AUDIT, card)
    with card.open("a", encoding="utf-8") as file:
        file.write("\n## Below, with the word intruders\n")
    write_card(OTHER, card)
    text = card.read_text(encoding="utf-8")
    assert text.startswith(FRONT + "\n# Above\n")
    assert text.endswith(f"{END}\n\n## Below, with the word intruders\n")
    assert "is an intruder." in text
    write_card(AUDIT, card)
    assert f"left {AUDIT.intruders} intruders" in card.read_text(encoding="utf-8")


def test_names_cannot_end_a_line_or_a_cell(tmp_path: Path) -> None:
    odd = made_up_audit(1, {f"a|b\n{END}": (1.0, 1.0)}, tuned=f"x`\n{BEGIN}")
    card = tmp_path / "README.md"
    write_card(odd, card)
    first = card.read_bytes()
    write_card(odd, card)
    assert card.read_bytes() == first
    lines = card.read_text(encoding="utf-8").splitlines()
    assert lines.count(BEGIN) == lines.count(END) == 1


@pytest.mark.parametrize(
    "lines", [[BEGIN], [END], [END, BEGIN], [BEGIN, END, BEGIN, END], [BEGIN, BEGIN, END]]
)
def test_broken_comment_lines_are_refused_and_the_card_stays(lines: list[str], tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text("\n".join(["# Mine", *lines, "end"]), encoding="utf-8")
    before = card.read_bytes()
    with pytest.raises(ResultFileError, match="expected one of each, in this order; remove the section"):
        write_card(AUDIT, card)
    assert card.read_bytes() == before


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ResultFileError, match="not UTF-8 text"):
        write_card(AUDIT, card)


def test_a_sum_keeps_every_model_and_its_weight_and_a_pattern_its_folders() -> None:
    summed = made_up_audit(1, width=32, base="/home/anna/base", tuned="/home/anna/a@0.7+/home/anna/b@0.3")
    section = card_section(replace(summed, settings={**summed.settings, "exclude": ["/abs/*"]}))
    assert "tuned `a@0.7+b@0.3`" in section
    assert "intruders audit base a@0.7+b@0.3 --k 10" in section
    assert "--exclude '/abs/*'" in section
    assert "anna" not in section


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("/home/someone/runs/r1", "r1"),
        ("clients/acme/secret/model", "model"),  # too many parts for a Hub id
        ("acme/model", "model"),  # a folder that is here
        ("acme/elsewhere", "acme/elsewhere"),  # as a Hub id
        ("acme/model-7b@refs/pr/1", "acme/model-7b@refs/pr/1"),
        ("clients/acme/a@0.7+acme/elsewhere@0.3", "a@0.7+acme/elsewhere@0.3"),
    ],
)
def test_relative_paths_are_shortened_and_hub_ids_are_not(
    source: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "acme" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    section = card_section(made_up_audit(1, width=32, base="HuggingFaceTB/SmolLM2-135M", tuned=source))
    assert f"tuned `{shown}`," in section
    assert f"intruders audit HuggingFaceTB/SmolLM2-135M {shown} --k 10 --epsilon 0.5" in section


def test_a_model_in_memory_has_a_shortened_path_its_class_and_no_command() -> None:
    tuned = "LlamaForCausalLM (clients/acme/secret/model), adapter 'default'"
    section = card_section(made_up_audit(1, width=32, base="LlamaForCausalLM (acme/elsewhere)", tuned=tuned))
    assert "base `LlamaForCausalLM (acme/elsewhere)`, " in section
    assert "tuned `LlamaForCausalLM (model), adapter 'default'`, " in section
    assert "```" not in section
