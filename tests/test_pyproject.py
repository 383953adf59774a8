"""The wheel and the source archive: what is in them, and that the wheel runs where the repository is not."""

import json
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import intruders
from tests.commands import environment

REPOSITORY = Path(__file__).parents[1]
# What is read at run time besides Python: without one of these, a command fails only for those who installed a wheel.
DATA = {
    "intruders/__init__.pyi",
    "intruders/py.typed",
    *(
        f"intruders/checkpoints/stored/{model}-lora/{file}"
        for model in ("minilm-l6", "smollm2-135m")
        for file in ("adapter_config.json", "adapter_model.safetensors")
    ),
    *(f"intruders/reports/page/{name}.html.j2" for name in ("base", "heal", "audit")),
    *(f"intruders/reports/page/{name}" for name in ("figures.js", "page.css", "page.js")),
}


@dataclass(frozen=True)
class Archives:
    wheel: Path
    source: Path
    wheel_of_source: Path

    def members(self) -> set[str]:
        return set(zipfile.ZipFile(self.wheel).namelist())


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Archives:
    """A wheel and a source archive made from the repository, and a wheel made from that archive alone."""
    folder = tmp_path_factory.mktemp("archives")
    source = folder / build("sdist", REPOSITORY, folder)
    unpacked = folder / "unpacked"
    with tarfile.open(source) as archive:
        archive.extractall(unpacked, filter="data")
    [root] = unpacked.iterdir()
    again = folder / "again"
    return Archives(folder / build("wheel", REPOSITORY, folder), source, again / build("wheel", root, again))


def build(what: str, source: Path, out: Path) -> str:
    """What a build frontend calls, without the network that it would use to install the backend."""
    code = f"from hatchling import build; print(build.build_{what}({str(out)!r}))"
    out.mkdir(exist_ok=True)
    how: dict[str, Any] = {"capture_output": True, "text": True, "check": True, "timeout": 120}
    return str(subprocess.run([sys.executable, "-c", code], cwd=source, **how).stdout.split()[-1])


def files_of_the_package() -> set[str]:
    package = Path(intruders.__file__).parent
    return {
        path.relative_to(package.parent).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_the_package_its_license_and_nothing_else(archives: Archives) -> None:
    info = f"intruders-{intruders.__version__}.dist-info"
    of_package = {name for name in archives.members() if not name.startswith(info)}
    assert of_package == files_of_the_package()
    assert of_package >= DATA
    assert f"{info}/licenses/LICENSE" in archives.members()
    assert archives.wheel.stat().st_size < 2**21  # of which the adapter of a language model is two fifths


def test_the_source_archive_holds_what_a_packager_needs(archives: Archives) -> None:
    with tarfile.open(archives.source) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert held >= files_of_the_package()
    assert held >= {"pyproject.toml", "LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "Makefile"}
    assert held >= {"tests/conftest.py", "docs/reference/formats.md", "examples/demo.py"}
    assert held >= {"action.yml", "Containerfile"}
    # A folder that somebody keeps beside the code (runs, checkpoints, notes) must never be published.
    folders = {name.partition("/")[0] for name in held if "/" in name}
    known = {"action", "benchmarks", "docs", "examples", "intruders", "release", "research", "tests"}
    assert folders == known


def test_the_source_archive_builds_the_same_wheel(archives: Archives) -> None:
    both = (zipfile.ZipFile(file).infolist() for file in (archives.wheel_of_source, archives.wheel))
    again, built = ({item.filename: item.CRC for item in items} for items in both)
    assert again == built


def test_the_installed_wheel_audits_where_the_repository_is_not(archives: Archives, tmp_path: Path) -> None:
    target = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
    pip += ["--disable-pip-version-check", "--target", str(target), str(archives.wheel)]
    subprocess.run(pip, check=True, timeout=120)

    def installed(*command: str | Path) -> str:
        how: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 120, "check": False}
        around = {**environment(), "PYTHONPATH": str(target)}
        done = subprocess.run([sys.executable, *command], cwd=tmp_path, env=around, **how)
        assert done.returncode == 0, done.stderr
        return done.stdout

    program = target / "bin" / "intruders"
    assert Path(installed("-c", "import intruders; print(intruders.__file__)").strip()).is_relative_to(target)
    assert installed(program, "--version") == f"intruders {intruders.__version__}\n"
    assert "audit" in installed(program, "--help")
    base = torch.eye(8)[:6] * torch.arange(6, 0, -1)[:, None]
    tuned = base + 20 * torch.outer(torch.ones(6), torch.eye(8)[7])  # one direction, spread over six vectors
    save_file({"model.layers.0.self_attn.q_proj.weight": base}, tmp_path / "base.safetensors")
    save_file({"model.layers.0.self_attn.q_proj.weight": tuned}, tmp_path / "tuned.safetensors")
    models = ("base.safetensors", "tuned.safetensors")
    installed(program, "audit", *models, "--no-cache", "--html", "report.html", "--json", "a.json")
    assert json.loads((tmp_path / "a.json").read_text())["totals"]["intruders"] == 1
    assert (tmp_path / "report.html").read_text().count("<script") > 1
