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

# Idle OpenMP threads sleep: beside one busy process, training was 2.5 to 5 times slower with
# spinning threads. They spin for a fraction of a millisecond first, which is how long they wait
# within a layer: waking up takes longer. OpenMP reads this once, when torch or FAISS is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")


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
