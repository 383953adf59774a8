"""Take the picture of a report that the README shows, in light and dark colors.

    make demo
    python examples/make_readme_picture.py demo/report.html

It needs the extra test and Chromium (Debian: apt-get install chromium).
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

OUT = Path(__file__).parents[1] / "docs" / "figures"
WIDTH, HEIGHT = 1080, 920  # CSS pixels: the top of the page down to the similarity matrices


def main(report: Path) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        for colors in ("light", "dark"):
            page = browser.new_page(
                viewport={"width": WIDTH, "height": HEIGHT},
                color_scheme=colors,  # type: ignore[arg-type]
                device_scale_factor=1.5,
            )
            page.goto(report.resolve().as_uri())
            page.locator("#similarities .plot-container").last.wait_for()
            file = OUT / f"report-{colors}.png"
            page.screenshot(path=file)
            print(f"{file.relative_to(OUT.parents[1])}: {file.stat().st_size / 1000:.0f} KB")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
