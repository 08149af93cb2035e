"""What an index holds of its chunks besides vectors: ids, BM25, and the hash of their lines."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rag_ft.prompts.answer_prompt import chunk_text
from rag_ft.retrieval.lexical import LexicalBuilder
from rag_ft.retrieval.segments import TextKeys
from rag_ft.schema import Chunk, ChunkContext
from rag_ft.storage import to_json, write_json


class ChunkFiles:
    """Takes the chunks of an index block by block, in their order."""

    def __init__(self, folder: Path, context: ChunkContext) -> None:
        """`folder` is that of the index, `context` what stands before each chunk."""
        self.ids: list[str] = []
        self._folder, self._context = folder, context
        self._digest, self._keys = hashlib.sha256(), TextKeys()
        self._lexical = LexicalBuilder(folder)

    def add(self, block: Sequence[Chunk]) -> tuple[list[str], np.ndarray]:
        """Appends chunks. Returns what the encoder reads of each, and the keys of these texts."""
        texts = [chunk_text(chunk, self._context) for chunk in block]
        # BM25 always reads the title: in no measurement was it better without.
        context: ChunkContext = "title" if self._context == "none" else self._context
        self._lexical.add([chunk_text(chunk, context) for chunk in block])
        self._digest.update("".join(to_json(chunk) + "\n" for chunk in block).encode())
        self.ids += [chunk.id for chunk in block]
        return texts, self._keys.of(texts)

    @property
    def digest(self) -> str:
        """The sha256 of the chunks' lines in chunks.jsonl."""
        return self._digest.hexdigest()

    def save(self) -> None:
        """Writes chunk_ids.json and lexical/, in place of older ones."""
        write_json(self._folder / "chunk_ids.json", self.ids)
        shutil.rmtree(self._folder / "lexical", ignore_errors=True)
        self._lexical.save(self._folder / "lexical")
