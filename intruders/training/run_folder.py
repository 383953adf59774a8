"""The folder of one fine-tuning run: its record (run.json), log (log.jsonl), checkpoints, and trained model.

While the run goes on, a file ``complete.json`` marks the checkpoints that can be resumed from.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoints.stored.json_file import read_json_object
from ..checkpoints.writing.training_record import SCHEMA
from ..data.corpora import Corpus
from ..data.task import Task
from ..errors import ResultFileError, SettingError, some_of
from ..system.documents import read_document
from ..system.files import user_path, write_atomically
from ..system.folders import LOCK, atomic_folder, follow_umask, scratch_folder

_COMPLETE = "complete.json"

# Settings that may be a path in the folder that the run's own is in: a stage of a sequence starts from the one before.
# The record has the digest of what is there.
_MODELS = ("base", "start_from")


def _beside_out(config: Mapping[str, Any], key: str) -> str | None:
    # Relative to the folder that ``out`` is in; None where it is not in there.
    if not config.get(key) or not config.get("out"):
        return None
    path = os.path.relpath(config[key], os.path.dirname(os.path.normpath(config["out"])))
    return None if path.split(os.sep)[0] == os.pardir else path


def _is_same(key: str, record: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    before = record["config"]
    if before.get(key) == config.get(key):
        return True
    if key == "precision":  # auto stays what it was where the run began, on every machine
        used = record.get("precision")
        return {before.get(key), config.get(key)} == {"auto", used}
    return key in _MODELS and _beside_out(before, key) == _beside_out(config, key) is not None


@dataclass(frozen=True)
class RunFolder:
    """The folder of a fine-tuning run; its files are read when they are needed.

    Attributes:
      path: the folder.

    Examples:
      ``intruders.RunFolder(Path("my-run")).record["status"]``
    """

    path: Path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def record(self) -> dict[str, Any]:
        """The content of run.json. SettingError if it does not exist, ResultFileError if it cannot be read."""
        file = self.path / "run.json"
        record = read_document(file, "the record of a run", SCHEMA)
        if record is None:
            raise SettingError(f"'{self.path}' is not a run folder: it has no run.json")
        if not isinstance(record.get("config"), dict):  # another program's file of this name, or a study's
            raise ResultFileError(
                f"'{file}' is not the record of a run; move it away, or choose another folder"
            )
        return record

    def to_document(self) -> dict[str, Any]:
        return self.record

    def save(self, path: str | os.PathLike[str]) -> None:
        """Copy the run to another folder, completely or not at all; CheckpointError if that cannot be."""
        with atomic_folder(path) as folder:
            shutil.copytree(self.path, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(LOCK))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "RunFolder":
        """Open the folder of a run; SettingError if it is not one, ResultFileError if its record cannot be read."""
        run = cls(user_path(path))
        run.to_document()
        return run

    @property
    def log(self) -> list[dict[str, Any]]:
        """The logged steps, oldest first."""
        file = self.path / "log.jsonl"
        if not file.is_file():
            return []
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]

    @property
    def begun(self) -> dict[str, Any]:
        """The record; empty where no run has begun."""
        return self.record if (self.path / "run.json").is_file() else {}

    @property
    def is_finished(self) -> bool:
        """Whether the record says that the run is finished."""
        return self.begun.get("status") == "finished"

    def summary(self) -> str:
        """Return the result in one line."""
        record = self.record
        accuracy, examples = record["validation"]["accuracy"], record["validation"]["examples"]
        scored = "" if accuracy is None else f", accuracy {accuracy:.3f} on {examples} validation rows"
        match = record["config"].get("match")
        if match is not None and record.get("stopped_by") != "match":
            scored += f", {match} was not reached"
        if (forgetting := record.get("forgetting")) is not None:
            rise, share = f"{forgetting['rise']:.3f} nats per token", 100 * forgetting["share_of_time"]
            scored += f", forgetting {rise} on {forgetting['corpus']} (measured in {share:.1f} % of the time)"
        if record.get("saved_step") is not None:
            scored += f", the state of step {record['saved_step']} was saved, the last below the limit"
        if record.get("over_limit"):
            scored += ", over the limit, since no audit saw a state below it"
        if (too_long := record["task"].get("too_long")) is not None:
            left_out = f"{too_long['train']} training and {too_long['validation']} validation rows"
            scored += f", {left_out} longer than the context left out"
        trained = f"{record['steps']} steps in {record['seconds']['training']:.0f} s"
        what = f"{record['config']['method']} on {record['task']['name']}"
        return f"{what}: {trained}{scored}; model in {self.path}"

    def how_to_resume(self) -> str:
        """Tell a person who stopped the run how to resume, in one line."""
        if self.is_finished:
            return f"the run is finished; its model is in {self.path}"
        last = self.last_checkpoint()
        if last is None:
            return "no checkpoint was complete yet; run the same command again to start over"
        step = last[0].name.removeprefix("checkpoint-")
        return f"the run is kept up to step {step}; run the same command again to resume from there"

    def require_same_settings(self, config: dict[str, Any]) -> None:
        """Raise SettingError if a run of other settings has begun here."""
        record = self.begun
        if not record:
            return
        # Where a run is kept does not change what it is: a moved folder can be resumed.
        changed = sorted(
            key
            for key in record["config"].keys() | config.keys()
            if key != "out" and not _is_same(key, record, config)
        )
        if changed:
            raise SettingError(
                f"out {str(self.path)!r} contains a run with other settings ({', '.join(changed)}); "
                "choose another folder, or remove that one"
            )

    def require_same_inputs(self, task: Task, models: Mapping[str, str]) -> None:
        """Raise SettingError if a run of other rows, or of another base or adapter, has begun here."""
        record, now = self.begun, task.fingerprint()
        before = record.get("task", {}).get("data", {})
        for split in now:
            if split in before and before[split] != now[split]:
                then, rows = before[split].get("rows"), now[split]["rows"]
                change = (
                    f"{then} rows then, {rows} now" if then != rows else f"{rows} rows, of another content"
                )
                raise SettingError(
                    f"out {str(self.path)!r} contains a run on other data ({split} split of task {task.name!r}: "
                    f"{change}); restore the data, choose another folder, or remove that one"
                )
        known = record.get("models", {})
        for name, digest in models.items():
            if known.get(name, digest) != digest:
                raise SettingError(
                    f"out {str(self.path)!r} contains a run from another {name}, whose files have changed since; "
                    "restore them, choose another folder, or remove that one"
                )

    def require_same_texts(self, measured: Corpus | None, replayed: Corpus | None) -> None:
        """Raise SettingError if a run of other texts has begun here."""
        record = self.begun
        texts = (("loss_on", "measured its loss on", measured), ("replay", "replayed", replayed))
        for name, used, corpus in texts:
            before = record.get(name)
            if corpus is not None and before is not None and before["digest"] != corpus.digest:
                raise SettingError(
                    f"out {str(self.path)!r} contains a run that {used} other text of {corpus.name!r} "
                    f"({before['documents']} documents then, {len(corpus.documents)} now); restore the text, choose "
                    "another folder, or remove that one"
                )

    def require_model(self) -> None:
        """Raise SettingError if the run is finished and its weights, or a shard of them, were removed."""
        if not self.is_finished:
            return
        name = "model" if self.record["config"].get("method") == "full" else "adapter_model"
        index = self.path / f"{name}.safetensors.index.json"  # of a model in shards
        shards = read_json_object(index).get("weight_map", {}) if index.is_file() else {}
        files = set(shards.values()) or {f"{name}.safetensors"}
        missing = sorted(file for file in files if not (self.path / file).is_file())
        if missing:
            raise SettingError(
                f"out {str(self.path)!r} contains a finished run without its model (missing: {some_of(missing)}); "
                "restore it, choose another folder, or remove that one to train again"
            )

    def write_record(self, record: dict[str, Any]) -> None:
        content = json.dumps({"schema": SCHEMA} | record, indent=2) + "\n"
        write_atomically(self.path / "run.json", content.encode())

    def write_log(self, history: list[dict[str, Any]]) -> None:
        write_atomically(
            self.path / "log.jsonl", "".join(f"{json.dumps(entry)}\n" for entry in history).encode()
        )

    def write_model(self, save: Callable[[Path], None]) -> None:
        """Let ``save`` write the model to a temporary folder, then move its files here, configuration last."""
        with scratch_folder(self.path) as unfinished:
            save(unfinished)
            follow_umask(unfinished)
            for file in sorted(unfinished.iterdir(), key=lambda file: file.name.endswith("config.json")):
                os.replace(file, self.path / file.name)

    def mark_complete(self, step: int, seconds: float) -> None:
        """Mark the checkpoint of ``step`` as complete; a kill in the middle of saving leaves no mark."""
        write_atomically(
            self.checkpoints / f"checkpoint-{step}" / _COMPLETE,
            json.dumps({"step": step, "seconds": seconds}).encode(),
        )

    def last_checkpoint(self) -> tuple[Path, float] | None:
        """Return the newest complete checkpoint and the seconds trained up to it."""
        complete = [(*mark, folder) for folder, mark in self._checkpoints_with_marks() if mark is not None]
        _, seconds, folder = max(complete, default=(0, 0.0, None))
        return None if folder is None else (folder, seconds)

    def remove_incomplete_checkpoints(self) -> None:
        """Remove what a kill left; only for the process with the lock: what is written right now looks the same."""
        for folder, mark in self._checkpoints_with_marks():
            if mark is None:
                shutil.rmtree(folder, ignore_errors=True)

    def remove_what_resumes(self) -> None:
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    def _checkpoints_with_marks(self) -> Iterator[tuple[Path, tuple[int, float] | None]]:
        # The step and the seconds trained up to it; None for one that is not complete.
        for folder in self.checkpoints.glob("checkpoint-*"):
            try:
                mark = json.loads((folder / _COMPLETE).read_text(encoding="utf-8"))
                yield folder, (int(mark["step"]), float(mark["seconds"]))
            except (OSError, ValueError, KeyError, TypeError):
                yield folder, None
