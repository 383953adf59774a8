"""Plugins of another package: the example is installed and used, and a broken one is named and never fatal."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

import intruders
from intruders.data.corpora import load_corpora
from intruders.data.load_task import load_task
from intruders.errors import SettingError
from intruders.mitigation.remedies.every_remedy import published_remedy
from intruders.system import plugins
from intruders.system.plugins import load_plugins, plugins_of
from tests.checkpoints.models import saved, tiny_llama
from tests.commands import in_this_process
from tests.mitigation.hot import hot_llama

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example package, installed by pip to a folder of its own."""
    folder = tmp_path_factory.mktemp("plugins")
    source = folder / "source"  # nothing is written into the repository
    shutil.copytree(ROOT / "examples" / "plugin", source)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(folder / "site")]
    command = [sys.executable, "-m", "pip", "install", *options, str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder / "site"


def forget() -> None:
    """Look for plugins anew, as another process does."""
    plugins._installed.cache_clear()
    plugins._of_group.cache_clear()


@pytest.fixture
def example(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Plugins are asked for, and the example is one that can be found."""
    monkeypatch.syspath_prepend(str(installed))
    monkeypatch.setenv("INTRUDERS_PLUGINS", "1")
    forget()
    yield
    forget()


def test_the_list(example: None) -> None:
    ours = [plugin for plugin in load_plugins() if plugin.package == "intruders-example 0.1.0"]
    assert [(plugin.group, plugin.name, plugin.error) for plugin in ours] == [
        ("formats", "npz", None),
        ("remedies", "halve", None),
        ("tasks", "parity", None),
        ("corpora", "counting", None),
        ("claims", "no-run-failed", None),
    ]
    done = in_this_process("plugins")
    assert "remedies: halve from intruders-example 0.1.0 (intruders_example.halve:Halve)\n" in done.stdout
    document = json.loads(in_this_process("plugins", "--json").stdout)
    assert document["schema"] == 1
    rows = document["plugins"]
    assert {"group": "formats", "name": "npz"}.items() <= rows[0].items()


def test_a_format_is_audited_and_a_remedy_mitigates(example: None, tmp_path: Path) -> None:
    base = saved(tiny_llama(), tmp_path / "base")
    adapter = saved(hot_llama(1, 1.5, tiny_llama(), lora_alpha=2), tmp_path / "adapter")  # scale 1
    factors = load_file(adapter / "adapter_model.safetensors")
    np.savez(tmp_path / "adapter.npz", **{name: tensor.numpy() for name, tensor in factors.items()})
    first, second = (intruders.audit(base, path, cache=False) for path in (adapter, tmp_path / "adapter.npz"))
    assert first.intruders == second.intruders > 0
    assert [matrix.name for matrix in first.matrices] == [matrix.name for matrix in second.matrices]

    out = tmp_path / "halved"
    done = in_this_process("mitigate", base, adapter, "--remedy", "halve", "--out", out, "--no-cache")
    assert done.returncode == 0, done.stderr
    before, after = (intruders.inspect_update(path) for path in (adapter, out))
    for old, new in zip(before.modules, after.modules, strict=True):
        assert new.name == old.name
        assert new.frobenius == pytest.approx(0.5 * old.frobenius, rel=1e-5)
    assert published_remedy("halve", 0.25).recorded()["kept"] == 0.25
    assert "halve" in intruders.ComparisonSettings().names()
    with pytest.raises(SettingError, match="remedy 'halv' is not known; did you mean 'halve'"):
        intruders.ComparisonSettings(only=("halv",))


def test_a_task_and_a_corpus(example: None) -> None:
    task = load_task("parity", seed=3)
    assert task.labels == ["even", "odd"]
    assert len(task.train) == 40
    [corpus] = load_corpora("counting")
    assert corpus.documents[0].startswith("0 1 2 3")


@pytest.mark.parametrize(
    ("target", "reason"),
    [("no_such_package:Remedy", "ModuleNotFoundError"), ("json:dumps", "it has no name, strength, change")],
)
def test_a_broken_plugin_is_named(
    target: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "broken_plugin-0.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-plugin\nVersion: 0.2\n")
    (info / "entry_points.txt").write_text(f"[intruders.remedies]\nbroken = {target}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("INTRUDERS_PLUGINS", "1")
    forget()
    try:
        assert "broken" not in plugins_of("remedies")
        done = in_this_process("plugins")
        assert done.returncode == 0
        assert f"remedies: broken from broken-plugin 0.2 ({target}), not loaded: {reason}" in done.stdout
    finally:
        forget()
