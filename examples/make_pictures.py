"""Take the pictures of real output that the README and the docs show, each in light and dark colors.

    make demo
    python examples/make_pictures.py demo/report.html

The first two are of the report given, from its top, and the next two of the report of one audit. The others are of a
terminal: what a command prints, as SVG. It needs the extras report and test, Chromium (Debian: apt-get install
chromium) and the demo model minilm-l6.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME, SVG_EXPORT_THEME
from rich.text import Text

OUT = Path(__file__).parents[1] / "docs" / "figures"
WIDTH, HEIGHT = 1080, 920  # CSS pixels: the top of the page down to the similarity matrices
COLUMNS = 80
THEMES = {"light": DEFAULT_TERMINAL_THEME, "dark": SVG_EXPORT_THEME}
# A picture loads nothing from the network: rich's fonts come from a server.
SVG = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
TERMINALS = {
    "audit": "intruders audit minilm-l6 minilm-l6-lora",
    "scale": "intruders scale minilm-l6 minilm-l6-lora",
}


def picture_of_report(name: str, report: Path) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        for colors in ("light", "dark"):
            page = browser.new_page(
                viewport={"width": WIDTH, "height": HEIGHT},
                color_scheme=colors,  # type: ignore[arg-type]
                device_scale_factor=1.5,
            )
            page.goto(report.resolve().as_uri())
            page.locator(".plot-container").last.wait_for()
            file = OUT / f"{name}-{colors}.png"
            page.screenshot(path=file)
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


def _printed(command: str) -> str:
    """What the command prints on a terminal with colors."""
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run(
            [sys.executable, "-m", *command.split()],
            cwd=folder,
            env={**os.environ, "FORCE_COLOR": "1", "COLUMNS": str(COLUMNS), "HF_HUB_OFFLINE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # the progress bar
            text=True,
            check=True,
        ).stdout


def _say(file: Path) -> None:
    print(f"{file.relative_to(OUT.parents[1])}: {file.stat().st_size / 1000:.0f} KB")


def main(report: Path | None) -> None:
    if report is not None:
        picture_of_report("report", report)
    with tempfile.TemporaryDirectory() as folder:
        audited = Path(folder) / "report.html"
        _printed(f"{TERMINALS['audit']} --html {audited}")
        picture_of_report("report-audit", audited)
    for name, command in TERMINALS.items():
        picture_of_terminal(name, command)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
