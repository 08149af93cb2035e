"""Benchmark: benchmarks/scoring.py, AMD EPYC, float32 and bfloat16; 4.4 times one pass per job.

With a vocabulary of 128,000 it is 21 times.

log p(answer token | prompt, earlier answer tokens) of many (prompt, answer) jobs. The plain path is
one forward pass per job with the logits of all positions; both give the same values within
rounding.

The logits at position i predict token i + 1, so an answer token is read at the position before it.
Only those positions go through the output head, which costs memory and time in proportion to the
vocabulary. A prompt beginning that several jobs share, such as a chunk under several questions, is
computed once.
"""

from __future__ import annotations

import itertools
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

    Batches hold about `batch_tokens` tokens, padding included. `pad` is any token id.
    """
    results: list[np.ndarray] = [np.zeros(0, np.float32)] * len(jobs)
    head = output_head(model)
    for shared, members in plan_batches(jobs, batch_tokens):
        hidden = _hidden_states(model, jobs, shared, members, pad)

        # Where each answer token is predicted in `hidden`, and which token it is.
        rows: list[int] = []
        columns: list[int] = []
        targets: list[int] = []
        for row, i in enumerate(members):
            prompt, answer = jobs[i]
            first = len(prompt) - shared[i] - 1
            rows += [row] * len(answer)
            columns += range(first, first + len(answer))
            targets += answer
        logits = head(hidden[rows, columns])
        wanted = torch.tensor(targets, device=logits.device)[:, None]
        logprobs = (logits.gather(1, wanted)[:, 0] - logits.logsumexp(-1)).float().cpu().numpy()

        # Back to one array per job.
        start = 0
        for i in members:
            end = start + len(jobs[i][1])
            results[i] = logprobs[start:end]
            start = end
    return results


def plan_batches(
    jobs: Sequence[Job], batch_tokens: int
) -> Iterator[tuple[dict[int, int], list[int]]]:
    """Yields ({job: length of the shared beginning, 0 for none}, jobs of one batch).

    Jobs are numbers of `jobs`; those with an empty answer are left out. Lengths within a batch are
    alike. Jobs that share a beginning stand next to each other in one batch, unless they are more
    than fill one.
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
            # Tokens that are computed. The shared keys and values are laid out once per row, which
            # takes memory too.
            cost = max(common + len(part) * rest, len(part) * (common + rest) // 2)
            # Rows with and without a cache cannot stand in one batch.
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
    """[(common length, members)] of prompts (token ids); members are the prompts' `names`.

    Prompts in lexicographic order are cut into groups where the common beginning gets short. A
    group's common length is below every member's prompt length, so that each has a token left to
    compute. A member without a worthwhile neighbour stands alone with common length 0.
    """
    order = sorted(range(len(prompts)), key=lambda i: prompts[i])
    groups: list[tuple[int, list[int]]] = []
    for position, i in enumerate(order):
        if position:
            previous = order[position - 1]
            side_by_side = zip(prompts[previous], prompts[i], strict=False)
            equal = itertools.takewhile(lambda pair: pair[0] == pair[1], side_by_side)
            common = min(len(list(equal)), len(prompts[i]) - 1, len(prompts[previous]) - 1)
            length, members = groups[-1]
            kept = min(length, common) if len(members) > 1 else common
            # Joining must not shorten by much what the group already shares.
            if kept >= MIN_SHARED_TOKENS and (len(members) == 1 or kept >= 0.8 * length):
                groups[-1] = (kept, [*members, names[i]])
                continue
        groups.append((0, [names[i]]))
    return groups


def _hidden_states(
    model: Any, jobs: Sequence[Job], shared: dict[int, int], members: list[int], pad: int
) -> torch.Tensor:
    """Last hidden states (members, longest rest, hidden), left aligned.

    A rest is a job's tokens after its shared beginning, without the last answer token: nothing is
    predicted from that one.
    """
    rests = [(jobs[i][0] + jobs[i][1][:-1])[shared[i] :] for i in members]
    width = max(len(rest) for rest in rests)
    device = model.device
    ids = torch.tensor([rest + [pad] * (width - len(rest)) for rest in rests], device=device)
    # Padded on the right, where no token looks: plainly causal, attention's fastest form.
    if not shared[members[0]]:
        return model.base_model(input_ids=ids, use_cache=False).last_hidden_state

    # Each shared beginning is computed once, and its keys and values are laid out once per member.
    row_of: dict[tuple[int, ...], int] = {}
    rows = [row_of.setdefault(tuple(jobs[i][0][: shared[i]]), len(row_of)) for i in members]
    past_ids, past_mask = left_pad([list(beginning) for beginning in row_of], pad, model)
    cache = new_cache(model)
    model.base_model(
        input_ids=past_ids,
        attention_mask=past_mask,
        position_ids=(past_mask.cumsum(-1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
    )
    index = torch.tensor(rows, device=device)
    cache.batch_select_indices(index)

    # The rests continue from there.
    mask = torch.tensor(
        [[1] * len(rest) + [0] * (width - len(rest)) for rest in rests], device=device
    )
    starts = torch.tensor([shared[i] for i in members], device=device)
    return model.base_model(
        input_ids=ids,
        attention_mask=torch.cat([past_mask[index], mask], dim=1),
        position_ids=starts[:, None] + torch.arange(width, device=device),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state


def _length(job: Job) -> int:
    return len(job[0]) + len(job[1])
