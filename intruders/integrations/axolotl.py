"""A plugin for axolotl: audits during its trainings, by keys of its YAML file.

::

    plugins:
      - intruders.integrations.axolotl.IntrudersPlugin
    intruders_every: 100
"""

from typing import Any

from axolotl.integrations.base import BasePlugin
from pydantic import BaseModel

from ..training.callback.callback import IntruderCallback


class IntrudersArgs(BaseModel):
    """The plugin's keys. Without ``intruders_every`` nothing is audited; the others are those of IntruderCallback."""

    intruders_every: int | None = None
    intruders_stop_above: int | None = None
    intruders_alert_above: int | None = None
    intruders_base: str | None = None
    intruders_loss_on: str | None = None
    intruders_loss_documents: int = 8
    intruders_loss_tokens: int = 256
    intruders_keep_forgetting_below: float | None = None
    intruders_keep_intruders_below: int | None = None
    intruders_go_on_over_limit: bool = False


_ARGUMENTS = [name.removeprefix("intruders_") for name in IntrudersArgs.model_fields]


class IntrudersPlugin(BasePlugin):  # type: ignore[misc]
    """Add an IntruderCallback to the Trainer that axolotl has made, if the YAML file asks for audits."""

    def get_input_args(self) -> str:
        return "intruders.integrations.axolotl.IntrudersArgs"

    def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[IntruderCallback]:
        if cfg.intruders_every is None:
            return []
        # axolotl gives None for a key that its file leaves out.
        given = {
            name: value for name in _ARGUMENTS if (value := getattr(cfg, f"intruders_{name}")) is not None
        }
        return [IntruderCallback(trainer, **given)]
