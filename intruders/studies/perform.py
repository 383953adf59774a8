"""One run from its settings to its results; what is finished is kept, whatever happens next."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from pathlib import Path

from ..errors import DiskFullError, SettingError, in_one_line
from ..system.files import stop_on_full_disk
from .run_record import RunRecord
from .runs import Run
from .stage import Callbacks, RunAtWork, Stage
from .stage_inputs import inputs_of, model_of
from .stages import stages_of
from .training_precision import began_in


def perform(
    run: Run,
    folder: Path,
    bases: Path,
    *,
    precision: str | None = None,
    callbacks: Callbacks = tuple,
    on_stage: Callable[[str], None] = lambda name: None,
    after_stage: Callable[[Stage], None] = lambda stage: None,
) -> bool:
    """Do the missing stages of ``run`` in ``folder``; return True if it finished, False if it failed, as recorded.

    A stage that is finished with the same settings is kept. A training whose own precision is auto is done in
    ``precision``, if that is given. ``on_stage`` is called with the name of a stage before it begins, ``after_stage``
    with each stage that was done now. Raises DiskFullError, which ends a study, and KeyboardInterrupt.
    """
    record = RunRecord(folder)
    try:
        with stop_on_full_disk(folder, "run the same command again; what is finished is kept"):
            _do_missing(run, folder, bases, record, precision, callbacks, on_stage, after_stage)
    except DiskFullError:
        raise
    except Exception as error:
        record.fail(in_one_line(error))
        (folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
        return False
    return True


def _do_missing(
    run: Run,
    folder: Path,
    bases: Path,
    record: RunRecord,
    precision: str | None,
    callbacks: Callbacks,
    on_stage: Callable[[str], None],
    after_stage: Callable[[Stage], None],
) -> None:
    if "taken_over" in record.read() and not is_done(run, folder):
        # Something is to be measured that the other study did not measure, and the model is not here.
        record.forget_what_was_taken_over()
    record.begin(run)
    inputs, is_trained_now = inputs_of(run), False
    for stage in stages_of(run):
        if not is_trained_now and _is_there(stage, run, record, folder):
            changed = record.changed(stage.name, inputs | model_of(folder))
            if changed is None:
                continue
            if stage.trains:
                raise SettingError(
                    f"{changed} is not what it was when this run was trained; restore it, or choose another out, "
                    "or remove the folder of the run"
                )
        on_stage(stage.name)
        began = time.perf_counter()
        stage.do(RunAtWork(run, folder, bases, callbacks, precision))
        seconds = time.perf_counter() - began
        if stage.trains:  # not done again over what is there
            is_trained_now = True
            used = began_in(folder).get("precision")
            record.finish_stage(stage.name, stage.settings(run), seconds, inputs, used)
        else:
            record.finish_stage(stage.name, stage.settings(run), seconds, inputs | model_of(folder))
        after_stage(stage)
    record.finish()
    (folder / "error.txt").unlink(missing_ok=True)


def is_done(run: Run, folder: Path, known: dict[str, str] | None = None) -> bool:
    """Return True if ``run`` is complete, and base, data and model are still what it was made from.

    ``known`` are digests of this call by path, which are not computed again.
    """
    record = RunRecord(folder)
    if record.read().get("status") != "finished":
        return False
    stages = stages_of(run)
    if not all(_is_there(stage, run, record, folder) for stage in stages):
        return False
    # A run that was taken over has no model; one in its folder is of an earlier, unfinished training here.
    inputs = inputs_of(run, known) | ({} if record.is_taken_over else model_of(folder))
    return all(record.changed(stage.name, inputs) is None for stage in stages)


def _is_there(stage: Stage, run: Run, record: RunRecord, folder: Path) -> bool:
    if not record.has(stage.name, stage.settings(run)):
        return False
    return record.is_taken_over or stage.is_there(folder)
