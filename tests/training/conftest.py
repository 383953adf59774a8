"""A run that nothing disturbed."""

from pathlib import Path

import pytest

from intruders.training.finetune import finetune
from intruders.training.run_folder import RunFolder
from tests.training.tiny_runs import config_of


@pytest.fixture(scope="module")
def whole(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run by the settings of ``config_of`` that nothing disturbed, to compare others with."""
    return finetune(config_of(llama, tmp_path_factory.mktemp("whole") / "run"))
