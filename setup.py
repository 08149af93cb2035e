"""Puts the demo into the built package: documents, model and configuration lie outside rag_ft/.

All else stands in pyproject.toml.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

# The same paths as in the checkout, since configs/demo.yaml names them.
DEMO = (
    "configs/demo.yaml",
    "data/handbook_splits.jsonl",
    "data/handbook",
    "data/models/demo-lm",
)


class BuildWithDemo(build_py):
    """As setuptools builds, then a copy of the demo in rag_ft/demo/. An editable install reads the
    files of its checkout."""

    def run(self) -> None:
        """Builds the package."""
        super().run()
        if self.editable_mode:
            return
        for name in DEMO:
            source, target = Path(name), Path(self.build_lib, "rag_ft", "demo", name)
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)
            else:
                shutil.copyfile(source, target)


setup(cmdclass={"build_py": BuildWithDemo})
