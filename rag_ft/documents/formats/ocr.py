"""Recognises the text of scanned pages with the program tesseract."""

from __future__ import annotations

import io
import shutil
import subprocess
from functools import lru_cache
from typing import Any

# Dots for each of the 72 points of an inch; tesseract wants about 300 dots an inch.
SCALE = 300 / 72
PROGRAM = "tesseract"


def can_recognise() -> bool:
    """Whether tesseract is installed."""
    return shutil.which(PROGRAM) is not None


def page_text(page: Any) -> str:
    """Returns the text that tesseract finds on a page of pypdfium2, in all languages that it has.

    Raises:
        OSError: tesseract fails.
    """
    image = io.BytesIO()
    page.render(scale=SCALE, grayscale=True).to_pil().save(image, "PNG")
    done = subprocess.run(
        [PROGRAM, "-", "-", "-l", _languages()],
        input=image.getvalue(),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise OSError(said[-1] if said else f"exit code {done.returncode}")
    return done.stdout.decode("utf-8", "replace").replace("\f", "").strip()


@lru_cache(maxsize=1)
def _languages() -> str:
    """Returns the installed languages as tesseract takes them, without its helpers."""
    done = subprocess.run([PROGRAM, "--list-langs"], capture_output=True, check=False)
    names = done.stdout.decode("utf-8", "replace").splitlines()[1:]
    return "+".join(name for name in names if name and name not in ("osd", "equ")) or "eng"
