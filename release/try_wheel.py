"""Try a wheel where nothing else is installed: one empty environment without extras, and one per extra.

    python release/try_wheel.py dist/intruders-*.whl                  # without extras, then every extra for users
    python release/try_wheel.py dist/intruders-*.whl none report      # only these

Every environment installs the wheel by the pinned constraints, imports what the extra is for, and audits a small
model with the installed command, outside of the repository. A failed step ends the script with its output.
"""

import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

CONSTRAINTS = Path(__file__).parent / "constraints.txt"
NONE = "none"
# What each extra is for; the package must be importable with it.
EXTRAS = {
    NONE: [],
    "gguf": ["gguf", "transformers"],
    "train": ["accelerate", "datasets", "peft", "scipy", "transformers", "yaml"],
    "report": ["jinja2", "matplotlib", "plotly"],
    "lm-eval": ["lm_eval"],
    "ray": ["fsspec", "ray"],
}
# What must stay out of an environment without extras, or the light package is not light.
HEAVY = ["transformers", "peft", "datasets", "plotly", "matplotlib", "ray"]
_MODELS = """
import torch
from safetensors.torch import save_file
base = torch.eye(8)[:6] * torch.arange(6, 0, -1)[:, None]
tuned = base + 20 * torch.outer(torch.ones(6), torch.eye(8)[7])  # one direction, spread over six vectors
for name, tensor in (("base", base), ("tuned", tuned)):
    save_file({"model.layers.0.self_attn.q_proj.weight": tensor}, f"{name}.safetensors")
"""


def try_extra(wheel: Path, extra: str, folder: Path) -> None:
    """Install the wheel with the extra into an empty environment in ``folder``, and use it there."""
    environment = folder / "environment"
    venv.create(environment, with_pip=True)
    commands = environment / ("Scripts" if os.name == "nt" else "bin")
    python, intruders = commands / "python", commands / "intruders"

    def run(*command: str | Path) -> str:
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [*map(str, command)], cwd=folder, env=kept, capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(f"{extra}: {' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
        return done.stdout

    asked = str(wheel) if extra == NONE else f"{wheel}[{extra}]"
    run(python, "-m", "pip", "install", "--quiet", "--constraint", CONSTRAINTS, asked)
    run(python, "-m", "pip", "check")
    if not Path(run(python, "-c", "import intruders; print(intruders.__file__)")).is_relative_to(environment):
        sys.exit(f"{extra}: the package was not imported from the environment")
    if EXTRAS[extra]:
        run(python, "-c", f"import {', '.join(EXTRAS[extra])}")
    else:
        found = f"from importlib.util import find_spec; print([n for n in {HEAVY} if find_spec(n)])"
        if (heavy := run(python, "-c", found).strip()) != "[]":
            sys.exit(f"{extra}: {heavy} were installed without an extra")
    run(intruders, "--version")
    run(intruders, "--help")
    [described] = json.loads(run(intruders, "inspect", "minilm-l6-lora", "--json"))  # without its base
    if len(described["update"]["modules"]) != 36:
        sys.exit(f"{extra}: the packaged adapter was not read as 36 modules")
    run(python, "-c", _MODELS)
    report = ["--html", "report.html"] if extra == "report" else []
    run(
        intruders, "audit", "base.safetensors", "tuned.safetensors", "--no-cache", "--json", "a.json", *report
    )
    if json.loads((folder / "a.json").read_text(encoding="utf-8"))["totals"]["intruders"] != 1:
        sys.exit(f"{extra}: the audit did not count the one intruder")
    print(f"{extra}: installed, inspects and audits", flush=True)


def main(arguments: list[str]) -> None:
    if not arguments or not set(arguments[1:]) <= set(EXTRAS):
        sys.exit(f"expected a wheel and any of {', '.join(EXTRAS)}; got {' '.join(arguments) or 'nothing'}")
    for extra in arguments[1:] or EXTRAS:
        with tempfile.TemporaryDirectory() as folder:
            try_extra(Path(arguments[0]).resolve(), extra, Path(folder))


if __name__ == "__main__":
    main(sys.argv[1:])
