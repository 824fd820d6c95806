"""A headless Chromium. Tests are skipped if it is missing, or fail if GDINO_REQUIRE_BROWSER is set."""

import os
import shutil
from contextlib import contextmanager

import pytest

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


def lacking(reason: str) -> None:
    (pytest.fail if os.environ.get("GDINO_REQUIRE_BROWSER") else pytest.skip)(reason)


@contextmanager
def launched():
    """Launch the browser, and close it at the end of the block."""
    try:
        import playwright.sync_api as playwright
    except ModuleNotFoundError:
        lacking("playwright is not installed")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        lacking("no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()
