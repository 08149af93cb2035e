"""A document format of your own: python examples/own_reader.py CONFIG runs `ingest` with it.

Here, a .srt file of subtitles becomes a text with one paragraph a caption. To have it in a package,
offer the reader under the entry-point group `rag_ft.readers`.
"""

import re
import sys
from pathlib import Path

from rag_ft import load_config, run_stage
from rag_ft.documents.formats import FORMATS
from rag_ft.documents.formats.content import Block, Content


def read_srt(raw: bytes) -> Content:
    """Every caption as a paragraph, without its number and its times."""
    captions = re.split(r"\n\s*\n", raw.decode("utf-8").replace("\r\n", "\n").strip())
    texts = [" ".join(caption.split("\n")[2:]) for caption in captions]
    return Content(title="", blocks=[Block("paragraph", text) for text in texts])


FORMATS[".srt"] = read_srt
done = run_stage("ingest", load_config(Path(sys.argv[1])))
print(done["counts"])
