"""What the done-files, rejects and replies of a run say: cost, generation funnel, leakage audit,
lineage."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from rag_ft.config import Config
from rag_ft.config_loader import flat
from rag_ft.evaluation.components import COMPONENTS
from rag_ft.evaluation.statistics import spread
from rag_ft.evaluation.verdict import points
from rag_ft.pipeline import read_done
from rag_ft.run_dir import RunDir
from rag_ft.schema import QAPair, Reject
from rag_ft.stage_table import NAMES
from rag_ft.storage import read_jsonl, read_rows

EXAMPLES_PER_REASON = 3
# generate's reasons in the order in which a pair meets them; others follow.
CHECK_ORDER = (
    "no_neighbour", "llm_error", "too_long", "cut_off", "bad_json", "nothing_to_ask", "answered", "form", "evidence",
    "stands_alone", "off_subject", "duplicate", "round_trip_rank", "no_answer", "round_trip_answer",
    "swap_answered", "closed_book",
)  # fmt: skip


def costs(run_dir: RunDir) -> list[dict[str, Any]]:
    """{stage, seconds, peak_memory_gb, prompt_tokens, completion_tokens, versions} of every stage
    that is done, with peak_gpu_memory_gb where it ran on a GPU, and continued where the seconds are
    those after an interruption."""
    rows = []
    for name in NAMES:
        if done := read_done(run_dir, name):
            row = {
                "stage": name,
                **{key: done.get(key) for key in ("seconds", "peak_memory_gb", "versions")},
            }
            row |= {key: done[key] for key in ("peak_gpu_memory_gb", "continued") if key in done}
            rows.append(row | _tokens(run_dir, name))
    return rows


def funnel(run_dir: RunDir) -> dict[str, Any]:
    """{"documents", "chunks", "asked", "steps": [{reason, rejected, left, examples}], "accepted",
    "imported", "other_rejects": [{stage, reason, count, examples}]}: what became of every document
    and pair."""
    ingested, generated = counts_of(run_dir, "ingest"), counts_of(run_dir, "generate")
    rejected = dict(generated.get("rejected_by_check") or {})
    examples = generated.get("reject_examples") or {}
    left, steps = int(generated.get("asked", 0)), []
    for reason in sorted(rejected, key=_place):
        left -= rejected[reason]
        shown = [example["detail"] for example in examples.get(reason, [])]
        steps.append(
            {"reason": reason, "rejected": rejected[reason], "left": left, "examples": shown}
        )
    return {
        "documents": ingested.get("num_documents"),
        "chunks": ingested.get("num_chunks"),
        "asked": generated.get("asked", 0),
        "steps": steps,
        "accepted": generated.get("accepted", 0),
        "imported": generated.get("imported", 0),
        "other_rejects": [
            row
            for row in _rejects(run_dir)
            if (row["stage"], row["reason"]) not in _known(rejected)
        ],
    }


def leakage(run_dir: RunDir) -> dict[str, Any]:
    """What the check before the evaluation compared; it would have stopped the run had it found
    anything. `given`: components that came by path: what they were trained on is not known here."""
    counts = counts_of(run_dir, "evaluate")
    found = {
        key.removeprefix("leakage_"): value
        for key, value in counts.items()
        if key.startswith("leakage_")
    }
    given = [name for name in COMPONENTS if counts.get(f"{name}_given")]
    return {"passed": bool(found), **found, "given": given}


def tuned_components(run_dir: RunDir) -> frozenset[str]:
    """The components that were really tuned and served."""
    counts = counts_of(run_dir, "evaluate")
    return frozenset(name for name in COMPONENTS if counts.get(f"{name}_tuned"))


def cross_validation(run_dir: RunDir) -> dict[str, Any] | None:
    """{"folds": the rows of training/folds.jsonl, "f1_base", "f1_tuned", "delta", "dev_loss":
    {mean, sd, low, high}, "sentence"}: what the generator's training gains on train documents that
    it did not see; None without folds."""
    path = run_dir.folds
    rows = list(read_rows(path)) if path.exists() else []
    if not rows:
        return None
    found = {
        name: spread([row[name] for row in rows])
        for name in ("f1_base", "f1_tuned", "delta", "dev_loss")
    }
    gain, num_better = found["delta"], sum(row["delta"] > 0 for row in rows)
    sentence = (
        f"The training gained F1 in {num_better} of {len(rows)} folds: {points(gain['mean'])} on average, from "
        f"{points(gain['low'])} to {points(gain['high'])} (standard deviation {100 * gain['sd']:.1f})."
    )
    return {"folds": rows, **found, "sentence": sentence}


def why_untuned(run_dir: RunDir) -> list[str]:
    """Why a component is not tuned, in the words of the stage that trains it."""
    lines, tuned = [], tuned_components(run_dir)
    for component in COMPONENTS.values():
        reason = counts_of(run_dir, component.stage).get("reason")
        if component.name not in tuned and reason:
            lines.append(f"The {component.name} is the base one: {reason}.")
    return lines


def counts_of(run_dir: RunDir, stage: str) -> dict[str, Any]:
    done = read_done(run_dir, stage)
    return dict(done["counts"]) if done else {}


def pairs_by_split(run_dir: RunDir) -> list[dict[str, Any]]:
    """{origin, kind, train, dev, test}: how many questions there are."""
    counted: Counter[tuple[str, str, str]] = Counter()
    for pair in read_jsonl(run_dir.qa, QAPair):
        counted[pair.origin, pair.kind, pair.split] += 1
    keys = dict.fromkeys((origin, kind) for origin, kind, _ in sorted(counted))
    return [
        {"origin": o, "kind": k, **{s: counted[o, k, s] for s in ("train", "dev", "test")}}
        for o, k in keys
    ]


def changed_settings(config: Config) -> dict[str, Any]:
    """The settings that differ from their defaults."""
    defaults = flat(Config())
    return {key: value for key, value in flat(config).items() if value != defaults.get(key)}


def fingerprints(run_dir: RunDir) -> dict[str, str]:
    """Stage -> fingerprint of its settings and inputs."""
    return {name: done["fingerprint"] for name in NAMES if (done := read_done(run_dir, name))}


def _tokens(run_dir: RunDir, stage: str) -> dict[str, int]:
    path = run_dir.replies(stage)
    if not path.exists():
        return {}
    totals: Counter[str] = Counter()
    for row in read_rows(path):
        totals["prompt_tokens"] += row.get("prompt_tokens", 0)
        totals["completion_tokens"] += row.get("completion_tokens", 0)
    return dict(totals)


def _rejects(run_dir: RunDir) -> list[dict[str, Any]]:
    rows = []
    for stage in NAMES:
        counted: Counter[str] = Counter()
        examples: dict[str, list[str]] = defaultdict(list)
        for reject in (
            read_jsonl(run_dir.rejects(stage), Reject) if run_dir.rejects(stage).exists() else ()
        ):
            counted[reject.reason] += 1
            if len(examples[reject.reason]) < EXAMPLES_PER_REASON:
                examples[reject.reason].append(
                    f"{reject.item}: {reject.detail}" if reject.detail else reject.item
                )
        rows += [
            {"stage": stage, "reason": r, "count": n, "examples": examples[r]}
            for r, n in counted.most_common()
        ]
    return rows


def _known(rejected: dict[str, int]) -> set[tuple[str, str]]:
    return {("generate", reason) for reason in rejected}


def _place(reason: str) -> tuple[int, str]:
    return (CHECK_ORDER.index(reason) if reason in CHECK_ORDER else len(CHECK_ORDER), reason)
