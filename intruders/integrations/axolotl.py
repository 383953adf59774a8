"""A plugin for axolotl: audits during its trainings, by four keys of its YAML file.

::

    plugins:
      - intruders.integrations.axolotl.IntrudersPlugin
    intruders_every: 100
"""

from __future__ import annotations

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


class IntrudersPlugin(BasePlugin):  # type: ignore[misc]
    """Add an IntruderCallback to the Trainer that axolotl has made, if the YAML file asks for audits."""

    def get_input_args(self) -> str:
        return "intruders.integrations.axolotl.IntrudersArgs"

    def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[IntruderCallback]:
        if cfg.intruders_every is None:
            return []
        callback = IntruderCallback(
            trainer,
            every=cfg.intruders_every,
            stop_above=cfg.intruders_stop_above,
            alert_above=cfg.intruders_alert_above,
            base=cfg.intruders_base,
        )
        return [callback]
