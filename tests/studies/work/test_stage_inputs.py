"""The hashes by which a finished stage knows that what it was made of is still the same."""

from __future__ import annotations

from pathlib import Path

import xxhash

from intruders.studies.describe.runs import expand
from intruders.studies.work.stage_inputs import inputs_of
from tests.studies.tiny_study import parsed


def test_a_study_stores_the_content_of_a_data_file_whatever_its_name(tmp_path: Path) -> None:
    content = bytes(range(256)) * 20_000  # 5 MB: more than one piece
    for name in ("a.tsv", "b.tsv"):
        (tmp_path / name).write_bytes(content)
    experiment = {
        "base": str(tmp_path / "no-model"), "task": f"{tmp_path / 'a.tsv'}?text=x&label=y&test={tmp_path / 'b.tsv'}",
        "steps": 2, "methods": [{"method": "full"}],
    }  # fmt: skip
    (run,) = expand(parsed({"name": "n", "experiments": {"e": experiment}}))
    wanted = xxhash.xxh3_128(content).hexdigest()
    assert inputs_of(run) == {f"data '{tmp_path / name}'": wanted for name in ("a.tsv", "b.tsv")}
