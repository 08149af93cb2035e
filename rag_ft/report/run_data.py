"""What the done-files, rejects and replies of a run say: cost, generation funnel, leakage audit,
fingerprints."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from rag_ft.config import Config
from rag_ft.config_loader import flat
from rag_ft.evaluation.components import COMPONENTS
from rag_ft.evaluation.statistics import spread
from rag_ft.evaluation.verdict import points
from rag_ft.freshness import read_done
from rag_ft.run_dir import RunDir
from rag_ft.schema import QAPair, Reject
from rag_ft.stage_table import NAMES
from rag_ft.storage import read_jsonl, read_rows

EXAMPLES_PER_REASON = 3
# The reasons of generate in the order in which a pair is checked; unknown ones follow.
CHECK_ORDER = (
    "no_neighbour",
    "llm_error",
    "cut_off",
    "bad_json",
    "nothing_to_ask",
    "answered",
    "form",
    "evidence",
    "unsupported",
    "stands_alone",
    "off_subject",
    "duplicate",
    "evidence_similarity",
    "round_trip_rank",
    "no_answer",
    "round_trip_answer",
    "swap_answered",
    "closed_book",
)


def counts_of(run_dir: RunDir, stage: str) -> dict[str, Any]:
    """The counts in the done-file of `stage`; empty where the stage is not done."""
    done = read_done(run_dir, stage)
    return dict(done["counts"]) if done else {}


def costs(run_dir: RunDir) -> list[dict[str, Any]]:
    """{stage, seconds, peak_memory_gb, versions} of every stage that is done; prompt_tokens and
    completion_tokens where it asked a language model, peak_gpu_memory_gb where it ran on a GPU, and
    continued where the seconds count only from an interruption on."""
    rows = []
    for name in NAMES:
        done = read_done(run_dir, name)
        if done is None:
            continue
        row: dict[str, Any] = {"stage": name}
        row |= {key: done.get(key) for key in ("seconds", "peak_memory_gb", "versions")}
        row |= {key: done[key] for key in ("peak_gpu_memory_gb", "continued") if key in done}
        if run_dir.replies(name).exists():
            tokens: Counter[str] = Counter()
            for reply in read_rows(run_dir.replies(name)):
                tokens["prompt_tokens"] += reply.get("prompt_tokens", 0)
                tokens["completion_tokens"] += reply.get("completion_tokens", 0)
            row |= tokens
        rows.append(row)
    return rows


def funnel(run_dir: RunDir) -> dict[str, Any]:
    """{"documents", "chunks", "sensitive": {documents, by_kind, masked}, "asked", "steps":
    [{reason, rejected, left, examples}], "accepted", "imported", "other_rejects": [{stage, reason,
    count, examples}]}: what happened to every document and pair."""
    ingested, generated = counts_of(run_dir, "ingest"), counts_of(run_dir, "generate")
    rejected = dict(generated.get("rejected_by_check") or {})
    examples = generated.get("reject_examples") or {}

    # One step a check: how many pairs it rejected, and how many are left after it.
    order = [*CHECK_ORDER, *sorted(rejected.keys() - set(CHECK_ORDER))]
    left, steps = int(generated.get("asked", 0)), []
    for reason in order:
        if reason in rejected:
            left -= rejected[reason]
            shown = [example["detail"] for example in examples.get(reason, [])]
            steps.append(
                {"reason": reason, "rejected": rejected[reason], "left": left, "examples": shown}
            )
    # Rejects of other stages, and those of generate that are no step of the funnel.
    others = [
        row
        for row in reject_counts(run_dir)
        if row["stage"] != "generate" or row["reason"] not in rejected
    ]
    return {
        "documents": ingested.get("num_documents"),
        "chunks": ingested.get("num_chunks"),
        "sensitive": {
            "documents": ingested.get("num_sensitive_documents", 0),
            "by_kind": ingested.get("sensitive_by_kind", {}),
            "masked": ingested.get("sensitive_masked", False),
        },
        "asked": generated.get("asked", 0),
        "steps": steps,
        "accepted": generated.get("accepted", 0),
        "imported": generated.get("imported", 0),
        "other_rejects": others,
    }


def reject_counts(run_dir: RunDir) -> Iterator[dict[str, Any]]:
    """{stage, reason, count, examples} of everything that a stage rejected, by stage, the most
    frequent reason first."""
    for stage in NAMES:
        path = run_dir.rejects(stage)
        if not path.exists():
            continue
        # One pass over the file: it may hold as many rows as there were pairs.
        counted: Counter[str] = Counter()
        examples: dict[str, list[str]] = defaultdict(list)
        for reject in read_jsonl(path, Reject):
            counted[reject.reason] += 1
            if len(examples[reject.reason]) < EXAMPLES_PER_REASON:
                detail = f": {reject.detail}" if reject.detail else ""
                examples[reject.reason].append(f"{reject.item}{detail}")
        for reason, count in counted.most_common():
            row = {"stage": stage, "reason": reason, "count": count}
            yield row | {"examples": examples[reason]}


def leakage(run_dir: RunDir) -> dict[str, Any]:
    """{"passed", the counts of what was compared, "given"}: the audit before the evaluation, which
    stops the run where it finds a leak. `given`: components that the configuration names by path;
    their training data is unknown."""
    counts = counts_of(run_dir, "evaluate")
    prefix = "leakage_"
    found = {k.removeprefix(prefix): v for k, v in counts.items() if k.startswith(prefix)}
    given = [name for name in COMPONENTS if counts.get(f"{name}_given")]
    return {"passed": bool(found), **found, "given": given}


def tuned_components(run_dir: RunDir) -> frozenset[str]:
    """The components that were tuned and served in the evaluation."""
    counts = counts_of(run_dir, "evaluate")
    return frozenset(name for name in COMPONENTS if counts.get(f"{name}_tuned"))


def cross_validation(run_dir: RunDir) -> dict[str, Any] | None:
    """{"folds": the rows of training/folds.jsonl, "f1_base", "f1_tuned", "delta", "dev_loss":
    {mean, sd, low, high}, "sentence"}: what the generator's training gains on train documents that
    were held out of it; None without folds."""
    rows = list(read_rows(run_dir.folds)) if run_dir.folds.exists() else []
    if not rows:
        return None
    names = ("f1_base", "f1_tuned", "delta", "dev_loss")
    found = {name: spread([row[name] for row in rows]) for name in names}
    gain, num_better = found["delta"], sum(row["delta"] > 0 for row in rows)
    sentence = (
        f"The training gained F1 in {num_better} of {len(rows)} folds: {points(gain['mean'])} on "
        f"average, from {points(gain['low'])} to {points(gain['high'])} (standard deviation "
        f"{100 * gain['sd']:.1f})."
    )
    return {"folds": rows, **found, "sentence": sentence}


def why_untuned(run_dir: RunDir) -> list[str]:
    """One sentence for each component that is not tuned, with the reason its stage recorded."""
    lines, tuned = [], tuned_components(run_dir)
    for component in COMPONENTS.values():
        reason = counts_of(run_dir, component.stage).get("reason")
        if component.name not in tuned and reason:
            lines.append(f"The {component.name} is the base one: {reason}.")
    return lines


def pairs_by_split(run_dir: RunDir) -> list[dict[str, Any]]:
    """{origin, kind, train, dev, test}: how many questions of each origin and kind there are."""
    counted: Counter[tuple[str, str, str]] = Counter()
    for pair in read_jsonl(run_dir.qa, QAPair):
        counted[pair.origin, pair.kind, pair.split] += 1
    rows = []
    for origin, kind in sorted({(origin, kind) for origin, kind, _ in counted}):
        numbers = {split: counted[origin, kind, split] for split in ("train", "dev", "test")}
        rows.append({"origin": origin, "kind": kind, **numbers})
    return rows


def changed_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `settings` ("section.key": value) that differ from their defaults."""
    defaults = flat(Config())
    return {key: value for key, value in settings.items() if value != defaults.get(key)}


def fingerprints(run_dir: RunDir) -> dict[str, str]:
    """{stage: fingerprint of its settings and inputs} of the stages that are done."""
    return {name: done["fingerprint"] for name in NAMES if (done := read_done(run_dir, name))}
