"""What a release consists of fits together: versions, pinned constraints, the workflow, the container file."""

import re
import tomllib
from pathlib import Path
from runpy import run_path
from typing import Any

import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import intruders

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OF_DEVELOPERS = {"docs", "test"}
EXTRAS = set(PROJECT["optional-dependencies"]) - OF_DEVELOPERS


def workflow() -> dict[str, Any]:
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
    described: dict[str, Any] = yaml.safe_load(text)
    return described


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_version_is_one() -> None:
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    assert cited is not None
    assert cited[1] == intruders.__version__
    assert PROJECT["dynamic"] == ["version"]
    assert str(Version(intruders.__version__)) == intruders.__version__


def test_the_constraints_pin_what_users_install() -> None:
    """Every requirement of the package and of each extra for users, at one version that it allows."""
    lines = (ROOT / "release" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins: dict[str, list[Requirement]] = {}
    for line in lines:
        if not line.startswith("#"):
            pin = Requirement(line)
            pins.setdefault(normal(pin.name), []).append(pin)
    needed = [*PROJECT["dependencies"]]
    for extra in EXTRAS:
        needed += PROJECT["optional-dependencies"][extra]
    for requirement in map(Requirement, needed):
        for pin in pins[normal(requirement.name)]:
            [only] = pin.specifier
            assert only.operator == "=="
            assert requirement.specifier.contains(only.version), pin


def test_every_extra_for_users_is_tried() -> None:
    tried = run_path(str(ROOT / "release" / "try_wheel.py"))["EXTRAS"]
    assert set(tried) == EXTRAS | {"none"}
    assert set(workflow()["jobs"]["try"]["strategy"]["matrix"]["extra"]) == set(tried)


def test_the_workflow_publishes_only_a_tag_that_was_tried_and_without_a_password() -> None:
    job = workflow()["jobs"]["publish"]
    assert job["if"] == "startsWith(github.ref, 'refs/tags/v')"
    assert set(job["needs"]) == {"build", "try"}
    assert job["permissions"] == {"attestations": "write", "contents": "read", "id-token": "write"}
    actions = [step["uses"].partition("@")[0] for step in job["steps"]]
    assert actions[-2:] == ["actions/attest-build-provenance", "pypa/gh-action-pypi-publish"]
    assert "password" not in job["steps"][-1]["with"]
    others = [other for name, other in workflow()["jobs"].items() if name != "publish"]
    assert not any("permissions" in other for other in others)


def test_the_container_copies_what_the_build_reads() -> None:
    """Its context leaves out the rest; what is not copied cannot be built in or leaked."""
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignore[0] == "*"
    copied = {line.removeprefix("!") for line in ignore[1:]}
    assert all((ROOT / name).exists() for name in copied)
    assert {"intruders", "pyproject.toml", PROJECT["readme"], *PROJECT["license-files"]} <= copied
    text = (ROOT / "Containerfile").read_text(encoding="utf-8")
    [asked] = re.findall(r'"/source\[([^]]+)\]"', text)
    assert set(asked.split(",")) <= EXTRAS


def test_the_container_installs_the_demo_models() -> None:
    """The pages audit them by name; without their requirements, as everywhere."""
    text = (ROOT / "Containerfile").read_text(encoding="utf-8")
    [installed] = re.findall(r"--no-deps ([\w -]+) \\\n", text)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert set(installed.split()) == set(re.findall(r"--no-deps ([\w-]+)", makefile))
