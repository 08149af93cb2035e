"""The script that takes the README's pictures, over a small run with the real server."""

from __future__ import annotations

import shutil
from pathlib import Path

import make_pictures
import pytest
from live_server import Says, live, served_models, small_run

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on the PATH"),
]
REPORT = """<!doctype html><meta name="color-scheme" content="light dark"><title>Report</title>
<h1>What to ship</h1>"""


def test_each_page_is_pictured_light_and_dark(
    tmp_path: Path, tiny_encoder_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = small_run(tmp_path, tiny_encoder_dir)
    models = served_models(session, Says("at noon [1]"), tuned=("retriever", "generator"))
    (tmp_path / "report.html").write_text(REPORT, encoding="utf-8")
    monkeypatch.setattr(make_pictures, "REPORT", tmp_path / "report.html")
    monkeypatch.setattr(make_pictures, "QUESTION", "When does the ferry leave?")
    monkeypatch.setattr(make_pictures, "served", lambda: live(models))

    # It waits for both answers and for the cited chunk, so a page without them ends it.
    make_pictures.main(["--to", str(tmp_path / "pictures")])
    brightness = {}
    for path in (tmp_path / "pictures").iterdir():
        picture = Image.open(path)
        assert picture.size == (1100, 900 if path.stem.startswith("report") else 620)
        brightness[path.name] = sum(picture.convert("L").resize((1, 1)).getdata())
    assert sorted(brightness) == [
        "chat-dark.webp",
        "chat-light.webp",
        "report-dark.webp",
        "report-light.webp",
    ]
    for page in ("chat", "report"):
        assert brightness[f"{page}-dark.webp"] < 90 < 160 < brightness[f"{page}-light.webp"]
