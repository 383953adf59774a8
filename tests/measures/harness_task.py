"""A multiple-choice task of one's own for lm-evaluation-harness."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.json_lines import write_rows


def write_harness_task(
    folder: Path, name: str, choices: Sequence[str], targets: Mapping[str, int], between: str = " "
) -> None:
    """A task file and its rows, by question the place of the right choice: the harness reads digits as a place.

    ``between`` stands between question and choice, a space as in the harness.
    """
    rows = folder / f"{name}.jsonl"
    write_rows(rows, [{"q": text, "a": target} for text, target in targets.items()])
    (folder / f"{name}.yaml").write_text(
        f"task: {name}\ndataset_path: json\ndataset_kwargs:\n  data_files:\n"
        f"    test: {rows}\ntest_split: test\noutput_type: multiple_choice\n"
        f'doc_to_text: "{{{{q}}}}"\ndoc_to_choice: {json.dumps(list(choices))}\ndoc_to_target: "{{{{a}}}}"\n'
        f'target_delimiter: "{between}"\n'
        "metric_list:\n  - metric: acc\n"
    )
