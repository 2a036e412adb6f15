"""A real browser, for what people look at."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

_BUDGET = "--virtual-time-budget"
_NAMES = ("chromium", "chromium-browser", "google-chrome")


def browser() -> str:
    """The path of a Chromium; without one the test is skipped, but fails where `CI` is true."""
    found = next((path for name in _NAMES if (path := shutil.which(name))), None)
    if found is not None:
        return found
    reason = f"no browser here: none of {', '.join(_NAMES)}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def dump_dom(url: str, *, seconds: float = 3.0) -> str:
    """The document as it is after its scripts have run for so many seconds of virtual time."""
    return _run("--dump-dom", f"{_BUDGET}={round(seconds * 1000)}", url)


def screenshot(url: str, path: Path, width: int, height: int, *, dark: bool = False) -> None:
    """A picture of the top of the page, as PNG; a phone's width comes out right as well."""
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    size = f"--window-size={width},{height}"
    _run(f"--screenshot={path}", size, scheme, "--hide-scrollbars", f"{_BUDGET}=1000", url)


def _run(*words: str) -> str:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        done = subprocess.run(
            [
                browser(),
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
                f"--user-data-dir={profile}",
                *words,
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    return done.stdout
