"""What people looked at: shares, decisions, accept rates, and how far they and the checks agree."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

from rag_ft.freshness import REVIEWS, read_done
from rag_ft.review.agreement import kappa, rate, reviewers_agreement, votes_of
from rag_ft.review.store import ReviewStore, key_of
from rag_ft.run_dir import RunDir
from rag_ft.schema import KINDS, SPLITS, QAPair
from rag_ft.storage import file_sha256, read_jsonl


def reviews(run_dir: RunDir, seed: int) -> dict[str, Any] | None:
    """None where nobody has reviewed a pair of this run; else
    {"splits": [{split, pairs, looked_at}], "rejected": {pairs, looked_at} of the pairs that a check
    rejected, "decisions": {decision: count of what holds, for each reviewer}, "reviewers": {name:
    number of pairs}, "rates": [{name, num_good, num, share, low, high}] accepted as written, by
    kind, "agreement": [{reviewers, kappa, ci95, agreed, num}], "checks": {kappa, ci95, agreed, num}
    or null: of the checks of generation with the majority of the reviewers, "applied": whether
    qa.jsonl holds all of them}.
    """
    store = ReviewStore(run_dir.reviews)
    if not store.keys or not run_dir.generated_pairs.exists():
        return None
    pairs, looked = Counter[str](), Counter[str]()
    good, decided = Counter[str](), Counter[str]()
    decisions, reviewers = Counter[str](), Counter[str]()
    votes: list[dict[str, bool]] = []
    by_checks: list[tuple[bool, bool]] = []
    seen: set[str] = set()
    files = {True: run_dir.generated_pairs, False: run_dir.generated_rejects}
    for kept, path in files.items():
        for pair in read_jsonl(path, QAPair) if path.exists() else ():
            group, key = pair.split if kept else "rejected", key_of(pair)
            pairs[group] += 1
            people = store.by_people(key)
            if not people or key in seen:
                continue
            seen.add(key)
            looked[group] += 1
            decisions.update(review.decision for review in people.values())
            reviewers.update(people.keys())
            found = store.outcome(key)
            if found.keeps is None:
                continue
            votes.append(votes_of(people))
            if kept:
                decided[pair.kind] += 1
                good[pair.kind] += found.text is not None and found.text.decision == "accept"
            if pair.origin == "generated":
                by_checks.append((kept, found.keeps))
    if not looked:
        return None
    rates = [rate("all", good.total(), decided.total())]
    rates += [rate(kind, good[kind], decided[kind]) for kind in KINDS if decided[kind]]
    return {
        "splits": [{"split": s, "pairs": pairs[s], "looked_at": looked[s]} for s in SPLITS],
        "rejected": {"pairs": pairs["rejected"], "looked_at": looked["rejected"]},
        "decisions": dict(decisions.most_common()),
        "reviewers": dict(reviewers.most_common()),
        "rates": [asdict(row) for row in rates],
        "agreement": reviewers_agreement(votes, seed),
        "checks": kappa(by_checks, seed),
        "applied": is_applied(run_dir),
    }


def is_applied(run_dir: RunDir) -> bool:
    """Whether generate has read reviews.jsonl as it is now."""
    done = read_done(run_dir, "generate")
    return done is not None and done["inputs"].get(REVIEWS) == file_sha256(run_dir.reviews)
