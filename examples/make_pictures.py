"""Take the pictures of real output that the README and the docs show, each in light and dark colors.

    make demo
    python examples/make_pictures.py --compared demo/report.html --healing heal.html --attribution attribution.html

Pages that take minutes to compute are given. Those of one audit and of a fleet are made here, and so is what commands
print on a terminal, as SVG. It needs the extras report and test, Chromium (Debian: apt-get install chromium) and the
demo model minilm-l6.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME, SVG_EXPORT_THEME
from rich.text import Text

OUT = Path(__file__).parents[1] / "docs" / "figures"
WIDTH, HEIGHT = 1080, 920  # CSS pixels
PALETTE = 256  # colors of a picture: pages have few, and a small file loads faster
COLUMNS = 80
THEMES = {"light": DEFAULT_TERMINAL_THEME, "dark": SVG_EXPORT_THEME}
# A picture loads nothing from the network: rich's fonts come from a server.
SVG = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
TERMINALS = {
    "audit": "intruders audit minilm-l6 minilm-l6-lora",
    "scale": "intruders scale minilm-l6 minilm-l6-lora",
}
# Adapters that the demo adapter gives without training: at smaller scales, and changed by two remedies.
SHARES = " ".join(f"minilm-l6-lora@{share}" for share in (0.8, 0.6, 0.4, 0.2))
FLEET = (
    "intruders mitigate minilm-l6 minilm-l6-lora --scale 0.3 --out mitigated",
    "intruders mitigate minilm-l6 minilm-l6-lora --scale 0.3 --control shrink --out shrunk",
    f"intruders fleet minilm-l6 minilm-l6-lora {SHARES} mitigated shrunk --out fleet",
)


def picture_of_page(name: str, page_file: Path, height: int = HEIGHT, start: str = "h1") -> None:
    """The page from the first element that `start` selects, as high as its figures need."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        for colors in ("light", "dark"):
            page = browser.new_page(
                viewport={"width": WIDTH, "height": HEIGHT},
                color_scheme=colors,  # type: ignore[arg-type]
                device_scale_factor=1.5,
            )
            page.goto(page_file.resolve().as_uri())
            page.locator(".plot-container").last.wait_for()
            above = page.locator(start).first.bounding_box()
            assert above is not None, f"{page_file} has no {start}"
            file = OUT / f"{name}-{colors}.png"
            page.screenshot(
                path=file,
                full_page=True,
                clip={"x": 0, "y": above["y"] - 20, "width": WIDTH, "height": height},
            )
            Image.open(file).convert("RGB").quantize(PALETTE, dither=Image.Dither.NONE).save(
                file, optimize=True
            )
            _say(file)
        browser.close()


def picture_of_terminal(name: str, command: str) -> None:
    printed = _printed(command)
    for colors, theme in THEMES.items():
        console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"), force_terminal=True)  # noqa: SIM115
        console.print(Text.from_ansi(printed))
        file = OUT / f"terminal-{name}-{colors}.svg"
        svg = console.export_svg(
            title=f"$ {command}", theme=theme, code_format=SVG, unique_id=f"terminal-{name}"
        )
        file.write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n", encoding="utf-8")
        _say(file)


def _printed(command: str, folder: str | None = None) -> str:
    """What the command prints on a terminal with colors."""
    with tempfile.TemporaryDirectory() as elsewhere:
        return subprocess.run(
            [sys.executable, "-m", *command.split()],
            cwd=folder or elsewhere,
            env={**os.environ, "FORCE_COLOR": "1", "COLUMNS": str(COLUMNS), "HF_HUB_OFFLINE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # the progress bar
            text=True,
            check=True,
        ).stdout


def _say(file: Path) -> None:
    print(f"{file.relative_to(OUT.parents[1])}: {file.stat().st_size / 1000:.0f} KB")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--compared", type=Path, help="the report of make demo")
    parser.add_argument("--healing", type=Path, help="the page of intruders heal --html")
    parser.add_argument("--attribution", type=Path, help="the page of intruders attribute --html")
    given = parser.parse_args()
    if given.compared is not None:
        picture_of_page("report", given.compared)
    if given.healing is not None:
        picture_of_page("heal", given.healing)
    if given.attribution is not None:
        picture_of_page("attribution", given.attribution, height=885, start="h2")
    with tempfile.TemporaryDirectory() as folder:
        _printed(f"{TERMINALS['audit']} --html report.html", folder)
        picture_of_page("report-audit", Path(folder) / "report.html", height=1130)
        for command in FLEET:
            _printed(command, folder)
        picture_of_page("fleet", Path(folder) / "fleet" / "report.html", height=1220)
    for name, command in TERMINALS.items():
        picture_of_terminal(name, command)


if __name__ == "__main__":
    main()
