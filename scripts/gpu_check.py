"""Throughput of the hot loops on this machine, with randomly initialised models of true shapes. See
gpu_check.sh.

Speed with random weights is that of real ones of the same shape; of quality it says nothing. Each
check runs in a process of its own (a CUDA error or memory that is kept ends with it), its failure
is written down and the others go on; results are written after each. `--tiny` shrinks all shapes,
to see on a CPU that the script works.

The paths of gpu_paths.py are commands on a run with tiny models: whether they run at all.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

import torch
from gpu_checks import CHECKS, GPU, ROOT, Row
from gpu_paths import PATHS

from rag_ft.errors import first_line
from rag_ft.pipeline import PACKAGES, versions
from rag_ft.storage import write_text

CHECK_SECONDS = 600
ROW = "row: "  # what stands before a check's result in the output of its process


def main() -> None:
    args = _arguments()
    if args.only:
        print(ROW + json.dumps(_checked(args.only, args.tiny)), flush=True)
        return
    rows: list[Row] = []
    skipped = args.skip.split(",")
    for name in (*CHECKS, *PATHS):
        if name not in skipped and not (name in PATHS and "paths" in skipped):
            rows.append(_in_own_process(name, args.tiny))
            path = write_results(rows, args.tiny, args.out)
    print(path.with_suffix(".md").read_text(encoding="utf-8") if rows else "every check is skipped")


def write_results(rows: list[Row], tiny: bool, out: Path) -> Path:
    """One JSON, whose path is returned, and one markdown table beside it."""
    name = torch.cuda.get_device_name() if GPU else "cpu"
    found = {
        "date": datetime.date.today().isoformat(),
        "device": name,
        "num_gpus": torch.cuda.device_count(),
        "tiny": tiny,
        "versions": _versions(),
        "checks": rows,
    }
    out.mkdir(parents=True, exist_ok=True)
    stem = f"gpu-{'-'.join(name.lower().split())}-{found['date']}{'-tiny' if tiny else ''}"
    path = out / f"{stem}.json"
    write_text(path, json.dumps(found, indent=1) + "\n")
    installed = ", ".join(f"{package} {version}" for package, version in _versions().items())
    title = f"# {name}, {found['date']}{' (tiny shapes: no measurement)' if tiny else ''}"
    lines = [title, "", installed, "", "| check | result |", "|---|---|"]
    lines += [
        f"| {row['check']} | {', '.join(f'{k} {v}' for k, v in row.items() if k != 'check')} |"
        for row in rows
    ]
    write_text(path.with_suffix(".md"), "\n".join(lines) + "\n")
    return path


def _in_own_process(name: str, tiny: bool) -> Row:
    print(f"[{name}]", file=sys.stderr, flush=True)
    command = [sys.executable, __file__, "--only", name, *(["--tiny"] if tiny else [])]
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, timeout=CHECK_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return {"check": name, "error": f"not done after {CHECK_SECONDS} s"}
    found = [line for line in done.stdout.splitlines() if line.startswith(ROW)]
    if not found:
        return {"check": name, "error": f"the process ended with code {done.returncode}"}
    return json.loads(found[-1].removeprefix(ROW))


def _checked(name: str, tiny: bool) -> Row:
    try:
        with tempfile.TemporaryDirectory(prefix="gpu-check-", ignore_cleanup_errors=True) as work:
            check = CHECKS[name] if name in CHECKS else lambda _, folder: PATHS[name](folder)
            return {"check": name, **check(tiny, Path(work))}
    except Exception as error:
        traceback.print_exc()
        return {"check": name, "error": f"{type(error).__name__}: {first_line(error)}"}


def _versions() -> dict[str, str]:
    packages = (*PACKAGES, "faiss-gpu", "flash-attn")
    return {"python": sys.version.split()[0], **versions(packages)}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Throughput of the hot loops on this machine")
    parser.add_argument(
        "--tiny", action="store_true", help="small shapes: shows on a CPU that the script works"
    )
    parser.add_argument(
        "--only",
        choices=[*CHECKS, *PATHS],
        help="one check in this process; prints its row as JSON",
    )
    parser.add_argument(
        "--skip", default="", help="checks to leave out, comma-separated; paths: all of those"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
