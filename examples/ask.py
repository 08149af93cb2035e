"""The Python API in ten lines: python examples/ask.py configs/demo.yaml "How old is ...?"."""

import sys
from pathlib import Path

from rag_ft import RagPipeline, load_config

config = load_config(Path(sys.argv[1]))
with RagPipeline.from_config(config, tuned=True) as rag:
    found = rag.answer(sys.argv[2])
    print(found.answer)
    for shown in found.chunks:
        print(f"{'*' if shown.chunk.id in found.citations else ' '} {shown.chunk.id}")
