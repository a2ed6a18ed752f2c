"""HTML pages in a browser that nobody sees, for tests of what a reader would see."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DRAWN = """async () => {
    const images = [...document.images];
    // What loads when it comes into view would be waited for forever.
    for (const image of images) image.loading = "eager";
    await Promise.all(images.map((image) => image.decode().catch(() => {})));
    await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
}"""


def find_browser() -> tuple[str | None, str]:
    """Return the path of Chromium, and why there is none for us if it is None."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return None, "the Python package playwright is not installed (pip install playwright)"
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    return found, "" if found else "neither chromium nor google-chrome is on the PATH"


@contextmanager
def open_page(
    html: str | Path, *, width: int = 1200, height: int = 800, touch: bool = False
) -> Iterator[Page]:
    """Open a page from disk in headless Chromium, every image drawn; ``find_browser`` found one.

    ``page.problems`` lists what the page reported as error or warning, and the addresses that it
    asked a network for.
    """
    from playwright.sync_api import sync_playwright

    flags = [*_FLAGS, *(["--no-sandbox"] if _is_root() else [])]
    browser_path, _ = find_browser()
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_path, args=flags)
        try:
            page = browser.new_page(viewport={"width": width, "height": height}, has_touch=touch)
            page.problems = _watch(page)
            page.goto(Path(html).resolve().as_uri())
            page.evaluate(DRAWN)
            yield page
        finally:
            browser.close()


def _watch(page: Page) -> list[str]:
    problems: list[str] = []

    def on_console(message) -> None:
        if message.type in ("error", "warning"):
            problems.append(message.text)

    def on_request(request) -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            problems.append(f"asks for {request.url}")

    page.on("console", on_console)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", on_request)
    return problems


def _is_root() -> bool:
    """Say whether this is root, for whom Chromium's sandbox does not start."""
    return hasattr(os, "geteuid") and os.geteuid() == 0
