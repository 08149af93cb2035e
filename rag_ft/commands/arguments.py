"""From parsed arguments to the configuration that a command works with."""

from __future__ import annotations

import argparse
import getpass
from collections.abc import Sequence
from pathlib import Path

from rag_ft.bundle.manifest import open_bundle
from rag_ft.config import Config
from rag_ft.config_loader import load_config
from rag_ft.errors import ConfigError
from rag_ft.freshness import check_files
from rag_ft.run_dir import RunDir


def paths_and_overrides(
    args: argparse.Namespace, words: Sequence[str]
) -> tuple[list[Path], list[str]]:
    """The paths among the words, and the overrides: those of the words (`section.key=value`) come
    after the others."""
    paths = [Path(word) for word in words if "=" not in word]
    return paths, [*args.overrides, *(word for word in words if "=" in word)]


def config_of(args: argparse.Namespace) -> Config:
    """The configuration file with the overrides of the command line."""
    return load_config(args.config, args.overrides)


def checked_config_of(args: argparse.Namespace, *stages: str) -> Config:
    """The configuration of a run whose files are as these stages wrote them.

    Raises:
        DataError: one of these files is missing or has changed.
    """
    return load_checked(args.config, args.overrides, *stages)


def load_checked(path: Path, overrides: list[str], *stages: str) -> Config:
    """As checked_config_of, of a path and overrides. The path may be a bundle: all its files are
    checked then."""
    if path.is_dir():
        return open_bundle(path, overrides)
    config = load_config(path, overrides)
    check_files(RunDir(config.run_path), stages)
    return config


def reviewer_of(args: argparse.Namespace) -> str:
    """Who decides: --reviewer, else the user of this machine.

    Raises:
        ConfigError: the user has no name, as in a container that runs under a number.
    """
    if args.reviewer:
        return str(args.reviewer)
    try:
        return getpass.getuser()
    except (KeyError, OSError) as error:
        raise ConfigError("the user of this machine has no name: add --reviewer NAME") from error
