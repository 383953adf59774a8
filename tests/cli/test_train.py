"""`intruders finetune` and `intruders sequence` as a person types them."""

from pathlib import Path
from typing import Any

import pytest
from transformers import Trainer

from tests.commands import in_this_process, refusal


def test_an_interrupted_run_can_resume(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = [
        "finetune", "--base", str(llama), "--task", "word-problems", "--rank", "2", "--steps", "4",
        "--max-train-samples", "40", "--max-eval-samples", "2", "--save-steps", "2", "--precision", "fp32",
        "--max-new-tokens", "8", "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    train = Trainer.training_step
    cases = [
        (1, "interrupted; no checkpoint was complete yet; run the same command again to start over"),
        (3, "interrupted; the run is kept up to step 2; run the same command again to resume from there"),
    ]
    for step, said in cases:

        def interrupted(trainer: Trainer, *args: Any, stop_at: int = step, **kwargs: Any) -> Any:
            if trainer.state.global_step == stop_at:
                raise KeyboardInterrupt
            return train(trainer, *args, **kwargs)

        monkeypatch.setattr(Trainer, "training_step", interrupted)
        done = in_this_process(*options)
        assert done.returncode == 130
        assert done.stderr.splitlines()[-1] == said
    monkeypatch.undo()
    done = in_this_process(*options)
    assert done.returncode == 0
    assert "resuming from step 2 of 4" in done.stderr.splitlines()
    assert "already finished" not in done.stdout


@pytest.mark.parametrize("tasks", ["pydoc-topics-1,", ",", "pydoc-topics-1, ,pydoc-topics-2"])
def test_an_empty_name_among_the_tasks_is_told_as_that(tasks: str) -> None:
    assert refusal("sequence", "--base", "none", "--tasks", tasks, "--out", "out") == (
        f"error: --tasks '{tasks}' has an empty name between or beside its commas; expected names of tasks or data "
        "files, with a comma between two; remove the comma that is too many"
    )


def test_spaces_after_commas_are_no_part_of_a_name(tmp_path: Path) -> None:
    tasks = "pydoc-topics-1, pydoc-topcs-2"
    said = refusal("sequence", "--base", "none", "--tasks", tasks, "--steps", "1", "--out", tmp_path)
    assert said.startswith("error: task 'pydoc-topcs-2' is not known; did you mean 'pydoc-topics-2'?")
