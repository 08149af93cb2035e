"""rag_ft: from raw documents to a measurably better local question-answering system.

The public Python API: `RagPipeline`, `load_config`, `run_stage`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rag_ft.version import __version__

if TYPE_CHECKING:
    from rag_ft.config_loader import load_config
    from rag_ft.pipeline import run_stage
    from rag_ft.rag import RagPipeline

__all__ = ["RagPipeline", "__version__", "load_config", "run_stage"]

# Idle OpenMP threads sleep instead of spinning: beside one busy process, training was 2.5 to 5
# times slower with spinning threads. OpenMP reads this once, when torch or FAISS is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def __getattr__(name: str) -> object:
    """Imports the public names when they are used, so that `import rag_ft` takes no time."""
    import importlib

    homes = {
        "RagPipeline": "rag_ft.rag",
        "load_config": "rag_ft.config_loader",
        "run_stage": "rag_ft.pipeline",
    }
    if name not in homes:
        raise AttributeError(f"module 'rag_ft' has no attribute '{name}'")
    return getattr(importlib.import_module(homes[name]), name)
