"""Prompts alone: how they are read, and the answers that the tuned model gives to them."""

from pathlib import Path

import pandas as pd
import pytest

from intruders.errors import SettingError
from intruders.experiments.data_shares import own_answers, read_prompts
from intruders.models.tuned_model import open_language_model
from tests.json_lines import write_rows
from tests.tiny import save_llama

SHORT = "what is 2+2? "


def test_prompts_without_room_for_an_answer_are_told_and_change_no_other_answer(tmp_path: Path) -> None:
    opened = open_language_model(str(save_llama(tmp_path / "base", positions=128)))
    [alone] = own_answers(opened, [SHORT])
    assert alone
    with pytest.warns(UserWarning, match=r"2 of 3 prompts and the answer are longer than the context of 128"):
        together = own_answers(opened, ["x" * 126, SHORT, "y" * 300])
    assert together == ["", alone, ""]


def test_a_line_ends_where_the_file_ends_it(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufefffirst\r\nsecond \u2028 half\r\n\r\nthird\x0chalf\n4\n5\n6".encode())
    assert read_prompts(str(file)) == ["first", "second \u2028 half", "third\x0chalf", "4", "5", "6"]


def test_missing_prompts_are_left_out_and_messages_refused(tmp_path: Path) -> None:
    pd.DataFrame({"prompt": [0.0, None, 2.0, 3.0, 4.0, 5.0, 6.0]}).to_parquet(tmp_path / "rows.parquet")
    assert read_prompts(str(tmp_path / "rows.parquet")) == ["0.0", "2.0", "3.0", "4.0", "5.0", "6.0"]
    talk = {"prompt": [{"role": "user", "content": "hi"}]}
    write_rows(tmp_path / "talk.jsonl", [talk] * 8)
    with pytest.raises(SettingError, match=r"column 'prompt' of line 1 of talk\.jsonl is a list"):
        read_prompts(str(tmp_path / "talk.jsonl"))
