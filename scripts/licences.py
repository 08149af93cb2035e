"""The licences of everything that an installed rag-ft needs. Standard library and `packaging`.

python scripts/licences.py            # a line for each package
python scripts/licences.py --check    # exit code 1 where one is not allowed or not stated
"""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import sys

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# What a user of an Apache-2.0 package does not expect to get with it.
FORBIDDEN = re.compile(
    r"AGPL|Affero|SSPL|Commons Clause|Business Source|(?<!L)GPL(?!.*(exception))"
)
# Read by somebody, on the date given: a forbidden word that does not bind who installs the wheel.
READ = {
    "docutils": "public domain and BSD; GPL for an emacs mode outside the wheel (2026-11-29)",
}
EXTRAS = ("cpu", "demo", "mcp", "llama-index", "docs")


def main(argv: list[str] | None = None) -> int:
    """Prints the licences; returns 1 where `--check` finds one that is not allowed."""
    parser = argparse.ArgumentParser(description="licences of the dependencies")
    parser.add_argument("--check", action="store_true", help="exit code 1 where one is not allowed")
    check = parser.parse_args(argv).check
    wrong = 0
    for name in sorted(needed("rag-ft", EXTRAS)):
        said = licence(name)
        bad = is_bad(name, said)
        wrong += bad
        print(f"{name:32} {said[:90]}{'  NOT ALLOWED' if bad else ''}")
    return int(check and wrong > 0)


def is_bad(name: str, said: str) -> bool:
    """Whether a licence is forbidden or missing, and nobody has read it."""
    return name not in READ and (not said or bool(FORBIDDEN.search(said)))


def needed(name: str, extras: tuple[str, ...]) -> set[str]:
    """The installed packages that a package needs, through others too."""
    found: set[str] = set()
    waiting: list[tuple[str, tuple[str, ...]]] = [(name, extras)]
    asked: set[tuple[str, tuple[str, ...]]] = set()
    while waiting:
        current = waiting.pop()
        if current in asked:
            continue
        asked.add(current)
        try:
            requires = importlib.metadata.requires(current[0]) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # of an extra that is not installed here
        if current[0] != name:
            found.add(current[0])
        for requirement in map(Requirement, requires):
            marker = requirement.marker
            chosen = ("", *current[1])
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in chosen):
                waiting.append(
                    (canonicalize_name(requirement.name), tuple(sorted(requirement.extras)))
                )
    return found


def licence(name: str) -> str:
    """What the package's metadata say: the expression, the classifiers, or the first words of the
    licence text."""
    metadata = importlib.metadata.metadata(name)
    if expression := metadata.get("License-Expression"):
        return expression
    classifiers = [
        line.rpartition(" :: ")[2]
        for line in metadata.get_all("Classifier") or []
        if line.startswith("License ::")
    ]
    words = " ".join((metadata.get("License") or "").split())[:200]
    return "; ".join([*classifiers, *([words] if words else [])])


if __name__ == "__main__":
    sys.exit(main())
