"""Benchmark: benchmarks/scoring.py; 4.4 times one pass per job (vocabulary of 128,000: 21 times).

log p(answer token | prompt, earlier answer tokens) of many (prompt, answer) jobs. The plain path is
one forward pass per job with the logits of all positions; both give the same values within
rounding.

The logits at position i predict token i + 1, so answer token t is read at the position before it.
Only those positions go through the output head, which costs memory and time in proportion to the
vocabulary, and a prompt beginning that several jobs share, such as a chunk under several questions,
is computed once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from rag_ft.fast.decoding import left_pad, new_cache, output_head

MIN_SHARED_TOKENS = 32  # shorter common beginnings are cheaper computed again
Job = tuple[list[int], list[int]]


@torch.inference_mode()
def score_jobs(model: Any, jobs: Sequence[Job], batch_tokens: int, pad: int) -> list[np.ndarray]:
    """For each (prompt ids, answer ids) float32 (answer length,) log-probabilities, natural log.

    Batches hold about `batch_tokens` tokens, padding included.
    """
    results: list[np.ndarray] = [np.zeros(0, np.float32)] * len(jobs)
    head = output_head(model)
    for shared, members in plan_batches(jobs, batch_tokens):
        hidden = _hidden_states(model, jobs, shared, members, pad)
        _read_answers(head, hidden, jobs, shared, members, results)
    return results


def plan_batches(
    jobs: Sequence[Job], batch_tokens: int
) -> Iterator[tuple[dict[int, int], list[int]]]:
    """Yields ({job: length of the shared beginning, 0 for none}, jobs of one batch), lengths alike
    within a batch.

    Jobs that share a beginning stand in one batch, next to each other.
    """
    groups = share_groups(
        [prompt for prompt, answer in jobs if answer], [i for i, job in enumerate(jobs) if job[1]]
    )
    groups.sort(key=lambda group: (group[0], max(_length(jobs[i]) for i in group[1])))
    shared: dict[int, int] = {}
    batch: list[int] = []
    used = 0
    for common, members in groups:
        for start in range(0, len(members), max(1, batch_tokens // 64)):
            part = members[start : start + max(1, batch_tokens // 64)]
            rest = max(_length(jobs[i]) for i in part) - common
            # what is computed; but the shared keys and values are laid out once per row, which
            # takes memory
            cost = max(common + len(part) * rest, len(part) * (common + rest) // 2)
            mixed = bool(batch) and (shared[batch[-1]] > 0) != (common > 0)
            if batch and (used + cost > batch_tokens or mixed):
                yield shared, batch
                shared, batch, used = {}, [], 0
            batch += part
            shared |= dict.fromkeys(part, common)
            used += cost
    if batch:
        yield shared, batch


def share_groups(prompts: Sequence[list[int]], names: Sequence[int]) -> list[tuple[int, list[int]]]:
    """[(common length, members)]: prompts in lexicographic order, cut where the common beginning
    gets short.

    A group's common length is below every member's prompt length, so that each has a token left to
    compute; members without a worthwhile neighbour stand alone with common length 0.
    """
    order = sorted(range(len(prompts)), key=lambda i: prompts[i])
    groups: list[tuple[int, list[int]]] = []
    for position, i in enumerate(order):
        if position:
            previous = order[position - 1]
            common = min(
                _common(prompts[previous], prompts[i]),
                len(prompts[i]) - 1,
                len(prompts[previous]) - 1,
            )
            length, members = groups[-1]
            kept = min(length, common) if len(members) > 1 else common
            # joining must not shorten what the group already shares by much
            if kept >= MIN_SHARED_TOKENS and (len(members) == 1 or kept >= 0.8 * length):
                groups[-1] = (kept, [*members, names[i]])
                continue
        groups.append((0, [names[i]]))
    return groups


def _hidden_states(
    model: Any, jobs: Sequence[Job], shared: dict[int, int], members: list[int], pad: int
) -> torch.Tensor:
    """Last hidden states (members, longest rest, hidden) of each job's tokens after its shared
    beginning, left aligned; the last answer token is left out, since nothing is read after it."""
    rests = [(jobs[i][0] + jobs[i][1][:-1])[shared[i] :] for i in members]
    width = max(len(rest) for rest in rests)
    device = model.device
    ids = torch.tensor([rest + [pad] * (width - len(rest)) for rest in rests], device=device)
    # Padded on the right, where no token looks: plainly causal, attention's fastest form.
    if not shared[members[0]]:
        return model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    mask = torch.tensor(
        [[1] * len(rest) + [0] * (width - len(rest)) for rest in rests], device=device
    )
    cache, past_mask = _shared_cache(model, jobs, shared, members, pad)
    starts = torch.tensor([shared[i] for i in members], device=device)
    positions = starts[:, None] + torch.arange(width, device=device)
    full = torch.cat([past_mask, mask], dim=1)
    return model.base_model(
        input_ids=ids,
        attention_mask=full,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state


def _shared_cache(
    model: Any, jobs: Sequence[Job], shared: dict[int, int], members: list[int], pad: int
) -> tuple[Any, torch.Tensor]:
    """(cache, mask) of the shared beginnings, computed once each and then laid out one row per
    member."""
    row_of: dict[tuple[int, ...], int] = {}
    rows = [row_of.setdefault(tuple(jobs[i][0][: shared[i]]), len(row_of)) for i in members]
    ids, mask = left_pad([list(prefix) for prefix in row_of], pad, model.device)
    cache = new_cache(model)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    model.base_model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
    )
    index = torch.tensor(rows, device=model.device)
    cache.batch_select_indices(index)
    return cache, mask[index]


def _read_answers(
    head: Any,
    hidden: torch.Tensor,
    jobs: Sequence[Job],
    shared: dict[int, int],
    members: list[int],
    results: list[np.ndarray],
) -> None:
    rows: list[int] = []
    columns: list[int] = []
    targets: list[int] = []
    for row, i in enumerate(members):
        prompt, answer = jobs[i]
        first = len(prompt) - shared[i] - 1  # where the first answer token is told
        rows += [row] * len(answer)
        columns += range(first, first + len(answer))
        targets += answer
    logits = head(hidden[rows, columns])
    wanted = torch.tensor(targets, device=logits.device)[:, None]
    logprobs = (logits.gather(1, wanted)[:, 0] - logits.logsumexp(-1)).float().cpu().numpy()
    start = 0
    for i in members:
        results[i] = logprobs[start : start + len(jobs[i][1])]
        start += len(jobs[i][1])


def _length(job: Job) -> int:
    return len(job[0]) + len(job[1])


def _common(a: list[int], b: list[int]) -> int:
    length = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        length += 1
    return length
