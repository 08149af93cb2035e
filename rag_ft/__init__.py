"""rag_ft: from raw documents to a measurably better local question-answering system.

The public Python API: `RagPipeline`, `load_config`, `run_stage`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag_ft.version import __version__

if TYPE_CHECKING:
    from rag_ft.config_loader import load_config
    from rag_ft.rag import RagPipeline
    from rag_ft.stages import run_stage

__all__ = ["RagPipeline", "__version__", "load_config", "run_stage"]


def __getattr__(name: str) -> object:
    """Imports the public names when they are used, so that `import rag_ft` takes no time."""
    import importlib

    homes = {
        "RagPipeline": "rag_ft.rag",
        "load_config": "rag_ft.config",
        "run_stage": "rag_ft.stages",
    }
    if name not in homes:
        raise AttributeError(f"module 'rag_ft' has no attribute '{name}'")
    return getattr(importlib.import_module(homes[name]), name)
