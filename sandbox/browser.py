"""Headless Chromium (Debian's, unpacked) driven by Playwright, for looking at pages as a person does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

from sandbox import binaries


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser that asks nobody but the pages it is sent to. :raises SandboxError: the package is not to be had."""
    tree = binaries.debian("chromium", "chromium-common", "fonts-dejavu-core", "fontconfig-config")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=tree / "usr/lib/chromium/chromium",
            env={**os.environ, "LD_LIBRARY_PATH": binaries.library_path(tree)},
            args=[
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--no-first-run",
            ],
        )
        try:
            yield browser
        finally:
            browser.close()
