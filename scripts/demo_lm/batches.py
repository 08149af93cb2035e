"""Encoded items in length-bucketed batches, with the weight of every predicted token."""

import random
from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from . import tasks

ANSWER_WEIGHT, PROMPT_WEIGHT, TEXT_WEIGHT = 1.0, 0.1, 0.5
PROMPT_SHARE = (
    0.3  # of the prompt's tokens, how many carry loss: they teach reading, but the answers matter
)
LONGEST = 768
POOL = 400  # items sorted by length together

PROMPT, ANSWER, TEXT, JSON = range(4)  # marks of tokens
# A JSON reply has some 60 tokens, most of them copied, an answer four: once copying is learnt the
# former weigh less.
JSON_WEIGHT_LATER = 0.3

Encoded = tuple[list[int], list[int]]  # token ids and marks


def encode_turns(
    tokenizer: PreTrainedTokenizerFast, turns: tasks.Turns, reply: bool = True
) -> Encoded:
    """Token ids and marks of a conversation in the chat template; without the last reply when
    `reply` is False."""
    parts: list[tuple[str, int]] = []
    for user, answer in turns:
        parts += [
            (f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n", PROMPT),
            (f"{answer}<|im_end|>", JSON if answer.startswith('{"') else ANSWER),
            ("\n", PROMPT),
        ]
    if not reply:
        parts = parts[:-2]
    encodings = tokenizer.backend_tokenizer.encode_batch([text for text, _ in parts])
    ids = [i for e in encodings for i in e.ids]
    return ids, [mark for e, (_, mark) in zip(encodings, parts, strict=True) for _ in e.ids]


def encode_item(tokenizer: PreTrainedTokenizerFast, item: tasks.Turns | str) -> Encoded:
    """A conversation or a plain text."""
    if isinstance(item, str):
        ids = tokenizer.backend_tokenizer.encode(item + "<|endoftext|>").ids
        return ids, [TEXT] * len(ids)
    return encode_turns(tokenizer, item)


def draw_stage(
    rng: random.Random, progress: float, first: float, second: float
) -> tuple[str, bool]:
    """The curriculum: stage of the next item and whether it keeps to one or two turns."""
    pick = rng.random()
    if progress < first:
        return "easy", False
    if progress < second:
        return ("easy" if pick < 0.4 else "middle"), False
    stage = "easy" if pick < 0.06 else "middle" if pick < 0.24 else "full"
    return stage, rng.random() < (0.3 if progress > 0.9 else 0.1)


def _pack(pool: list[Encoded], budget: int) -> list[list[Encoded]]:
    batches: list[list[Encoded]] = [[]]
    for item in sorted(pool, key=lambda e: len(e[0])):
        if batches[-1] and (len(batches[-1]) + 1) * len(item[0]) > budget:
            batches.append([])
        batches[-1].append(item)
    if len(batches[-1]) * len(batches[-1][-1][0]) < budget // 2 and len(batches) > 1:
        batches.pop()
    return batches


def to_tensors(
    batch: list[Encoded], generator: torch.Generator, json_weight: float
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Inputs, targets, weights, each [batch, length], and the number of tokens."""
    length = -(-max(len(ids) - 1 for ids, _ in batch) // 16) * 16
    inputs, targets = (torch.zeros(len(batch), length, dtype=torch.long) for _ in range(2))
    weights = torch.zeros(len(batch), length)
    for row, (ids, marks) in enumerate(batch):
        number, mark = len(ids) - 1, torch.tensor(marks[1:])
        inputs[row, :number], targets[row, :number] = torch.tensor(ids[:-1]), torch.tensor(ids[1:])
        read = (mark == PROMPT) & (torch.rand(number, generator=generator) < PROMPT_SHARE)
        weights[row, :number] = (
            (mark == ANSWER) * ANSWER_WEIGHT + (mark == TEXT) * TEXT_WEIGHT + read * PROMPT_WEIGHT
        )
        weights[row, :number] += (mark == JSON) * json_weight
    return inputs, targets, weights, sum(len(ids) for ids, _ in batch)


class BatchStream:
    """Endless batches of about `budget` tokens; `progress` (0..1) is set by the training loop."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        budget: int,
        seed: int,
        curriculum: tuple[float, float],
    ) -> None:
        self.tokenizer, self.budget, self.curriculum = tokenizer, budget, curriculum
        self.rng = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.progress = 0.0

    def _pool(self) -> list[Encoded]:
        pool: list[Encoded] = []
        while len(pool) < POOL:
            stage, single = draw_stage(self.rng, self.progress, *self.curriculum)
            item = tasks.training_item(self.rng, stage, single)
            encoded = encode_item(self.tokenizer, item) if item else ([], [])
            if 8 < len(encoded[0]) <= LONGEST:
                pool.append(encoded)
        return pool

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor, int]]:
        while True:
            batches = _pack(self._pool(), self.budget)
            self.rng.shuffle(batches)
            json_weight = 1.0 if self.progress < self.curriculum[1] else JSON_WEIGHT_LATER
            yield from (to_tensors(batch, self.generator, json_weight) for batch in batches)
