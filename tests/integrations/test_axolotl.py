"""The plugin under the hooks that axolotl publishes: axolotl pins CUDA packages, so that its BasePlugin is imitated."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from intruders.errors import SettingError
from tests.tiny import save_llama
from tests.training.callback.trainers import logged, prepared, tiny_trainer

PLUGIN = "intruders.integrations.axolotl.IntrudersPlugin"  # as a YAML file names it


class BasePlugin:
    """The hooks of axolotl.integrations.base.BasePlugin that are called here, by their published signatures."""

    def get_input_args(self) -> str | None:
        return None

    def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[Any]:
        return []


class Cfg(dict[str, Any]):
    """axolotl's configuration gives None for a key that is not in it."""

    def __getattr__(self, name: str) -> Any:
        return self.get(name)


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    base = ModuleType("axolotl.integrations.base")
    base.BasePlugin = BasePlugin  # type: ignore[attr-defined]
    for name in ("axolotl", "axolotl.integrations"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "axolotl.integrations.base", base)
    yield _named(PLUGIN)()
    sys.modules.pop("intruders.integrations.axolotl", None)


def _named(dotted: str) -> Any:
    """A class by its dotted name, as axolotl finds plugins and their keys."""
    module, _, name = dotted.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _trained(plugin: Any, out: Path, **keys: Any) -> tuple[Any, list[Any]]:
    """As axolotl does: the keys are checked, the Trainer is made, then the plugin is asked for callbacks."""
    cfg = Cfg(_named(plugin.get_input_args())(**keys).model_dump(exclude_none=True))
    trainer = tiny_trainer(prepared(save_llama(out / "llama"), "lora"), out / "out", max_steps=20)
    callbacks = plugin.add_callbacks_post_trainer(cfg, trainer)
    for callback in callbacks:
        trainer.add_callback(callback)
    trainer.train()
    return trainer, callbacks


def test_its_keys_make_the_audits_with_a_loss_and_a_limit(plugin: Any, tmp_path: Path) -> None:
    text = tmp_path / "known.txt"
    text.write_text("The text of a document, which the model once knew. ")
    keys = {"loss_on": str(text), "loss_tokens": 40, "keep_forgetting_below": 99.0}
    given = {f"intruders_{name}": value for name, value in keys.items()}
    trainer, [callback] = _trained(plugin, tmp_path, intruders_every=10, **given)
    entries = logged(trainer, "forgetting/known.txt")
    assert [entry["step"] for entry in entries] == [10, 20]
    assert callback.forgetting == entries[-1]["forgetting/known.txt"]
    (kept,) = (file.parent for file in (tmp_path / "out").glob("checkpoint-*/kept.json"))
    assert (kept.name, (kept / "adapter_model.safetensors").is_file()) == ("checkpoint-20", True)


def test_without_its_keys_nothing_is_audited(plugin: Any, tmp_path: Path) -> None:
    _, callbacks = _trained(plugin, tmp_path)
    assert callbacks == []


def test_other_keys_reach_the_callback(plugin: Any, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="alert_above is -1"):
        _trained(plugin, tmp_path, intruders_every=5, intruders_alert_above=-1)
    with pytest.raises(Exception, match="no-such-base"):
        _trained(plugin, tmp_path, intruders_every=5, intruders_base=str(tmp_path / "no-such-base"))
