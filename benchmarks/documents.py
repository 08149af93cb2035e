"""What reading keeps of real files, what damage does to it, and what it costs.

    python benchmarks/documents.py files FOLDER [--peers PEERS]   # words kept
    python benchmarks/documents.py damage FOLDER [--copies 500]
    python benchmarks/documents.py speed [--documents 3000] [--rounds 3]

`files` reads every file below FOLDER, such as the test files of pypdf, python-docx, docling and
markitdown, in worker processes. The reference of `x/a.pdf` is `a.pdf.md` in a folder `groundtruth`
beside it or above it, what pypdf finds in a PDF, and `PEERS/<peer>/x/a.pdf.txt`: what another
parser, in an environment of its own, found in it. Each reference gives the share of its words that
was kept, and the one of its union with the others what each peer keeps. The ground truth counts as
docling writes it, and "cleaned" of what is no text of the file. Each file of which rag_ft keeps
less than 95 % is listed with the words that are missing most. `damage` cuts the files or changes
some of their bytes. `speed` ingests made-up documents of 1,500 characters on one core and on two,
by turns. Each prints a table and writes
benchmarks/results/documents-<measure>-<hardware>-<date>.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hardware import processor, write_result

from rag_ft.documents.formats import FORMATS
from rag_ft.documents.formats.content import UnreadableError
from rag_ft.documents.reading import ReadSettings, read_content
from rag_ft.documents.workers import Limits, in_workers

SETTINGS = ReadSettings(100 * 2**20)
TRUTH, CLEANED = "ground truth", "ground truth, cleaned"
# Files are listed of which less than this share is kept of these.
LOW, LISTED = 0.95, (f"rag_ft of {TRUTH}", "rag_ft of all parsers")
# The reference's marks of Markdown and HTML are no words.
_MARKS = re.compile(r"<!--.*?-->|</?[a-z][^>]*>|\]\([^)]*\)|&[a-z]+;", re.DOTALL)
# What docling writes that is no text of the page: commands of formulas, states of boxes, kinds of
# pictures, authors and times of comments. And a table's row.
_NO_TEXT = re.compile(
    r"\\[a-zA-Z]+|\[[ x]\]|\[author: [^\]]*\]|"
    r"^(?:Line|Bar|Pie|Scatter|Other)? ?[Cc]hart(?: \w+)?$",
    re.MULTILINE,
)
_ROW = re.compile(r"^\s*\|.*\|\s*$")
# What pandas writes into cells that are empty.
_NO_CELL = re.compile(r"\bNaN\b|\bUnnamed: \d+")
# Formats that are text as they are.
PLAIN = (".txt", ".md", ".csv", ".tsv")
_WORD = re.compile(r"[^\W_]+")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("measure", choices=["files", "damage", "speed"])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--copies", type=int, default=500)
    parser.add_argument("--documents", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20, help="a file may take so long")
    args = parser.parse_args()
    if args.measure == "speed":
        result = speed(args.documents, args.rounds)
    elif args.folder is None:
        parser.error("give the folder with the files")
    else:
        result = (
            files(args.folder, args.peers, args.seconds)
            if args.measure == "files"
            else damage(args.folder, args.copies)
        )
    write_result(f"documents-{args.measure}", processor(), result)


def files(folder: Path, peers: Path | None, seconds: float) -> dict[str, Any]:
    """Words kept by format and parser (median and 5th percentile), and what was rejected."""
    found = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in FORMATS]
    tasks = [(path, folder, peers) for path in found if "groundtruth" not in path.parts]
    kept: dict[tuple[str, str], list[float]] = defaultdict(list)
    outcomes: Counter[str] = Counter()
    below: list[dict[str, Any]] = []
    rejected: dict[str, str] = {}
    for (path, _, _), result in in_workers(tasks, measured, Limits(seconds, 4096)):
        where = str(path.relative_to(folder))
        if isinstance(result, UnreadableError):
            outcomes[result.reason] += 1
            rejected[where] = result.reason
            continue
        outcomes["read"] += 1
        for name, (share, missing) in result.items():
            kept[path.suffix.lower()[1:], name].append(share)
            if share < LOW and name in LISTED:
                row = {"file": where, "what": name, "share": round(share, 3), "missing": missing}
                below.append(row)
    table = []
    for (suffix, name), shares in sorted(kept.items()):
        ordered = sorted(shares)
        low = ordered[len(ordered) // 20]
        row = {"format": suffix, "what": name, "files": len(ordered)}
        table.append(row | {"median": round(statistics.median(ordered), 4), "p5": round(low, 4)})
        print(f"{suffix:6} {name:36} {len(ordered):4}", end=" ")
        print(f"{100 * statistics.median(ordered):6.1f} {100 * low:6.1f}")
    print(dict(outcomes))
    for row in below:
        print(f"{row['share']:.3f} {row['file']} ({row['what']}): {row['missing']}")
    found_out = {"files": len(tasks), "outcomes": dict(outcomes), "kept": table}
    return found_out | {"below": below, "rejected": rejected}


def measured(task: tuple[Path, Path, Path | None]) -> dict[str, tuple[float, str]]:
    """`<parser> of <reference>` -> the share of the reference's words that the parser kept, and the
    words that are missing most."""
    path, folder, peers = task
    read = read_content(path.read_bytes(), path.name, SETTINGS)
    texts = {"rag_ft": f"{read.title}\n{read.text}" if read.title not in read.text else read.text}
    texts |= dict(found_by_peers(path, folder, peers))
    # rag_ft returns no Markdown: `<ada@example.org>` is no mark there.
    found = {n: words(t if n == "rag_ft" else _MARKS.sub(" ", t)) for n, t in texts.items()}
    # What is right: the ground truth, else all that any parser found.
    truths = {name: found.pop(name) for name in (TRUTH, CLEANED) if name in found}
    if not truths and len(found) > 1:
        union = Counter[str]()
        for counted in found.values():
            union |= counted
        truths = {"all parsers": union}
    pairs = [(name, reference) for reference in truths for name in found]
    pairs += [("rag_ft", name) for name in found if name != "rag_ft"]
    shares: dict[str, tuple[float, str]] = {}
    for name, reference in pairs:
        wanted = truths.get(reference) or found[reference]
        if wanted.total() >= 10:
            missing = " ".join(word for word, _ in (wanted - found[name]).most_common(12))
            kept = (wanted & found[name]).total() / wanted.total()
            shares[f"{name} of {reference}"] = kept, missing
    return shares


def found_by_peers(path: Path, folder: Path, peers: Path | None) -> Iterator[tuple[str, str]]:
    """(parser, text) of what others say that a file holds."""
    for parent in list(path.parents)[:4]:
        places = [
            p
            for n in (f"{path.name}.md", f"{path.stem}.md")
            for p in parent.glob(f"groundtruth/**/{n}")
        ]
        if places:
            text = places[0].read_text(encoding="utf-8")
            yield TRUTH, text
            yield CLEANED, without_repeats(text)
            break
    if path.suffix == ".pdf":
        with contextlib.suppress(Exception):  # a peer may fail on a file in any way
            import pypdf

            logging.getLogger("pypdf").setLevel(logging.CRITICAL)
            pages = pypdf.PdfReader(path).pages
            yield "pypdf", "\n".join(page.extract_text() for page in pages)
    raw = words(path.read_bytes().decode("utf-8", errors="replace"))
    for peer in sorted(peers.iterdir()) if peers else ():
        stored = peer / f"{path.relative_to(folder)}.txt"
        text = stored.read_text(encoding="utf-8") if stored.exists() else ""
        # A parser that has no reader for a format gives the file back as it is.
        if text and (words(text) != raw or path.suffix in PLAIN):
            yield peer.name, _NO_CELL.sub(" ", text)


def without_repeats(markdown: str) -> str:
    """docling's Markdown without what is no text of the file: see _NO_TEXT, and the text of cells
    over several columns or rows, which it repeats in each of them."""
    told: list[str] = []
    above: list[str] = []
    for line in markdown.splitlines():
        cells = [cell.strip() for cell in line.split("|")] if _ROW.match(line) else []
        left = ["", *cells[:-1]]
        upper = [*above, *[""] * len(cells)]
        new = zip(cells, left, upper, strict=False)
        kept = (c for c, before, over in new if not (c in (before, over) and re.search("[a-z]", c)))
        told.append(" | ".join(kept) if cells else line)
        if not re.fullmatch(r"[|\s:-]+", line):
            above = cells
    return _NO_TEXT.sub(" ", "\n".join(told))


def words(text: str) -> Counter[str]:
    """The words of a text, lower case, with how often each comes."""
    return Counter(_WORD.findall(text.lower()))


def damage(folder: Path, copies: int) -> dict[str, Any]:
    """What becomes of damaged copies: every one is read or rejected for a known reason."""
    found = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in FORMATS]
    found = [path for path in found if path.stat().st_size > 1]
    chance = random.Random(1)
    tasks = [(chance.choice(found), chance.random()) for _ in range(copies)]
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    for _, result in in_workers(tasks, read_damaged, Limits(10, 2048)):
        outcome, seconds = result if isinstance(result, tuple) else (result.reason, 10.0)
        outcomes[outcome] += 1
        slowest = max(slowest, seconds)
    print(dict(outcomes.most_common()), f"slowest {slowest:.1f} s")
    return {"copies": copies, "outcomes": dict(outcomes), "slowest_seconds": round(slowest, 2)}


def read_damaged(task: tuple[Path, float]) -> tuple[str, float]:
    """(what came of it, seconds) for a copy of a file that is cut or has some bytes changed."""
    path, seed = task
    chance = random.Random(seed)
    raw = bytearray(path.read_bytes())
    if chance.random() < 0.3:
        del raw[chance.randrange(1, len(raw)) :]
    for _ in range(chance.randrange(1, 30)):
        raw[chance.randrange(len(raw))] = chance.randrange(256)
    begin = time.monotonic()
    try:
        read_content(bytes(raw), path.name, SETTINGS)
        outcome = "read"
    except UnreadableError as error:
        outcome = error.reason
    return outcome, time.monotonic() - begin


def speed(documents: int, rounds: int) -> dict[str, Any]:
    """CPU and wall seconds of `ingest` on one core and on two, by turns, for text files and JSONL;
    how many times as fast it is on two, as timed, and the least and the most by CPU seconds."""
    chance = random.Random(1)
    vocabulary = [f"{a}{b}" for a in ("har", "lam", "qua", "fer") for b in ("bour", "p", "y", "ry")]
    table: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        rows = []
        (root / "txt").mkdir()
        (root / "jsonl").mkdir()
        for number in range(documents):
            text = ""
            while len(text) < 1500:
                said = " ".join(chance.choices(vocabulary, k=12)).capitalize()
                text += f"{said} {chance.randrange(9999)}.{chance.choice([' ', ' ', chr(10) * 2])}"
            (root / "txt" / f"{number}.txt").write_text(text, encoding="utf-8")
            rows.append(json.dumps({"id": str(number), "text": text}))
        (root / "jsonl" / "a.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
        (root / "c.yaml").write_text("run: {seed: 0}\n", encoding="utf-8")
        for kind in ("txt", "jsonl"):
            runs = [
                (timed_ingest(root, kind, 1), timed_ingest(root, kind, 2)) for _ in range(rounds)
            ]
            table[kind] = {
                "one core": [one for one, _ in runs],
                "two cores": [two for _, two in runs],
            }
            ratio = statistics.median(one["wall"] / two["wall"] for one, two in runs)
            one = min((one for one, _ in runs), key=lambda run: run["cpu"])
            # What the program itself does may stand beside the work of its workers, or not.
            least = one["cpu"] / (one["parent"] + (one["cpu"] - one["parent"]) / 2)
            most = one["cpu"] / max(one["parent"], one["cpu"] / 2)
            table[kind] |= {"ratio of wall seconds": round(ratio, 2)}
            table[kind] |= {"ratio by CPU seconds": [round(least, 2), round(most, 2)]}
            print(kind, {name: table[kind][name] for name in table[kind] if "ratio" in name})
    return {"documents": documents, "seconds": table}


# Runs a command in this process and says what the process used itself, its workers left out.
_RUN = """
import resource, sys
from rag_ft.cli import main
code = main(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
print("parent", used.ru_utime + used.ru_stime)
sys.exit(code)
"""


def timed_ingest(root: Path, kind: str, cores: int) -> dict[str, float]:
    """CPU seconds of one `rag-ft ingest` with as many workers as cores, those of the process
    itself, and wall seconds; its start included."""
    command = [sys.executable, "-c", _RUN, "ingest", str(root / "c.yaml"), "--force"]
    command += [f"ingest.sources=[{root / kind}]", f"run.dir={root / 'run'}"]
    usable = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, usable[:cores])  # the command inherits it
    before, begin = os.times(), time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wall, after = time.monotonic() - begin, os.times()
    os.sched_setaffinity(0, usable)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    cpu = after.children_user + after.children_system
    cpu -= before.children_user + before.children_system
    parent = float(done.stdout.rsplit("parent ", 1)[1])
    row = {"cpu": round(cpu, 2), "parent": round(parent, 2), "wall": round(wall, 2)}
    print(f"{kind:6} {cores} cores: {row['cpu']:6.2f} CPU s ({parent:.2f} parent), {wall:6.2f} s")
    return row


if __name__ == "__main__":
    main()
