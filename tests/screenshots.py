"""Pictures of HTML pages, taken by a browser that nobody sees."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from glacier_utils.errors import GlacierError
from glacier_utils.files import atomic_path

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
_DRAWN = """async () => {
    await Promise.all([...document.images].map((image) => image.decode().catch(() => {})));
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
            page.evaluate(_DRAWN)
            yield page
        finally:
            browser.close()


def screenshot(
    html: str | Path, png: str | Path, *, width: int = 1200, height: int = 800
) -> Path | None:
    """Keep a picture of a page, as it looks when it has just been opened, as PNG.

    Returns:
        The PNG's path; None, with the reason logged, where the browser is missing.

    Raises:
        GlacierError: there is no such page, or it reports an error or asks for the network.
    """
    html = Path(html)
    if not html.is_file():
        raise GlacierError(f"{html}: no such page; write it first")
    found, reason = find_browser()
    if found is None:
        logging.getLogger(__name__).warning("%s: no screenshot, since %s", html.name, reason)
        return None

    def take() -> None:
        with (
            atomic_path(png) as temporary,
            open_page(html, width=width, height=height) as page,
        ):
            if page.problems:
                raise GlacierError(f"{html}: the page reports: {page.problems[0]}")
            page.screenshot(path=temporary)

    # In a thread of its own: a notebook's event loop runs in this one, which Playwright refuses.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(take).result()
    return Path(png)


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
