"""The language model in this process: a causal LM of transformers with LoRA adapters beside it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import hashlib
import itertools
import logging
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers.decoders import DecodeStream

from rag_ft.config import LLMConfig
from rag_ft.errors import ConfigError
from rag_ft.fast.decoding import GrammarCompiler, Row
from rag_ft.hardware import choose_device, choose_dtype, free_memory_gb, release_gpu
from rag_ft.llm.adapters import open_adapters
from rag_ft.llm.causal_lm import check_language_model, load_causal_lm, unused_settings
from rag_ft.llm.chat_template import encode_answers, encode_prompts, load_chat_tokenizer
from rag_ft.llm.interface import JSON_STYLE, ChatRequest, Messages, Reply, Stream
from rag_ft.llm.plain_decoding import decode_rows, score
from rag_ft.model_hub import check_adapter, context_tokens, fingerprint, resolve, weights_gb
from rag_ft.storage import batched, content_hash

log = logging.getLogger(__name__)


class TransformersModel:
    """A LanguageModel (see interface.py) on the first GPU or the CPU.

    Each window of requests is sorted by adapter and prompt length and decoded in batches of about
    `batch_tokens` tokens. The same window gives the same replies; sampling is seeded by (seed,
    content of the request).

    Raises:
        ConfigError: no model or chat template, too little memory, an adapter that does not fit.
    """

    window = 256

    def __init__(self, config: LLMConfig, seed: int, adapters: dict[str, Path]) -> None:
        folder = resolve(config.required_model, "llm")
        for name, path in adapters.items():
            check_adapter(name, path)
        self.tokenizer = load_chat_tokenizer(folder, config.advanced.trust_remote_code)
        self._device = choose_device()
        self._dtype = choose_dtype(config.dtype, self._device)
        self._seed, self._batch_tokens = seed, config.advanced.batch_tokens
        self._limit = context_tokens(folder, config.max_model_tokens)
        check_memory(folder, self._dtype, self._device)
        trust_code = config.advanced.trust_remote_code
        self._model = load_causal_lm(folder, self._dtype, self._device, trust_code)
        check_language_model(self._model, folder, config.max_model_tokens)
        if unused := unused_settings(self._model):
            log.warning("Not applied, as with every backend: %s of generation_config.json.", unused)

        self._peft: Any = open_adapters(self._model, adapters)
        self._ends = end_tokens(self._model, self.tokenizer)
        pad = self.tokenizer.pad_token_id
        # Padding is masked, so any token will do.
        self._pad = pad if pad is not None else min(self._ends)
        self._grammars = GrammarCompiler(self.tokenizer, self._ends, JSON_STYLE)
        self.name = model_name(folder, self._dtype, seed, adapters)

    def chat(self, requests: Iterable[ChatRequest]) -> Iterator[Reply]:
        """Exactly one reply per request; those of a batch come in the order of their length.

        Raises:
            ConfigError: a request names an adapter that is not loaded.
        """
        for window in batched(requests, self.window):
            # What the model cannot answer gets its error at once; the rest is decoded together.
            fitting = []
            prompts = encode_prompts(self.tokenizer, [request.messages for request in window])
            for request, prompt in zip(window, prompts, strict=True):
                if failed := self._refusal(request, prompt):
                    yield failed
                else:
                    fitting.append((request, prompt))

            # Rows of one length waste no padding. Equal lengths are ordered by the prompt, so that
            # a window gives the same batches in whatever order its requests came.
            fitting.sort(
                key=lambda pair: (pair[0].adapter or "", len(pair[1]) + pair[0].max_tokens, pair[1])
            )
            for adapter, group in itertools.groupby(fitting, key=lambda pair: pair[0].adapter):
                with self._adapter(adapter):
                    for batch in token_batches(list(group), self._batch_tokens):
                        yield from self._chat_batch(batch)

    def answer_logprobs(self, jobs: Sequence[tuple[Messages, str]]) -> list[np.ndarray]:
        """By the base model, without adapters.

        Raises:
            ConfigError: a prompt with its answer exceeds the model's context.
        """
        prompts = encode_prompts(self.tokenizer, [messages for messages, _ in jobs])
        answers = encode_answers(self.tokenizer, [answer for _, answer in jobs])
        encoded = list(zip(prompts, answers, strict=True))
        longest = max((len(prompt) + len(answer) for prompt, answer in encoded), default=0)
        if longest > self._limit:
            raise ConfigError(
                f"a prompt with its answer has {longest} tokens, the model takes {self._limit}: "
                "lower ingest.chunk_tokens, or raise llm.max_model_tokens where the model can"
            )
        with self._adapter(None):
            return score(self._model, encoded, self._batch_tokens, self._pad)

    def count_tokens(self, messages: Messages) -> int:
        """Prompt tokens after the chat template."""
        return len(encode_prompts(self.tokenizer, [messages])[0])

    def __enter__(self) -> TransformersModel:
        return self

    def __exit__(self, *_: object) -> None:
        self._model = self._peft = None
        gc.collect()  # PEFT and its model refer to each other
        release_gpu()

    @contextlib.asynccontextmanager
    async def streaming(self) -> AsyncIterator[Stream]:
        """Requests wait for each other: one thread decodes them in the order in which they come.

        The stream raises ConfigError where a request names an adapter that is not loaded.
        """
        # PyTorch gets as many threads there as in this one.
        thread = ThreadPoolExecutor(
            1, "rag_ft-decode", torch.set_num_threads, (torch.get_num_threads(),)
        )
        try:
            yield functools.partial(self._stream, thread)
        finally:
            thread.shutdown(cancel_futures=True)

    async def _stream(
        self, thread: ThreadPoolExecutor, request: ChatRequest
    ) -> AsyncGenerator[str | Reply, None]:
        loop = asyncio.get_running_loop()
        # What the decoding thread hands over: pieces, then the reply, or the error that ended it.
        said: asyncio.Queue[str | Reply | BaseException] = asyncio.Queue()
        left = threading.Event()

        def hand_over(item: str | Reply | BaseException) -> bool:
            if not left.is_set():
                loop.call_soon_threadsafe(said.put_nowait, item)
            return not left.is_set()

        def work() -> None:
            try:
                hand_over(self._stream_reply(request, hand_over))
            except Exception as error:  # raised again in the coroutine that waits for the reply
                hand_over(error)

        waiting = thread.submit(work)
        try:
            while True:
                item = await said.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
                if isinstance(item, Reply):
                    return
        finally:
            left.set()
            waiting.cancel()

    def _stream_reply(self, request: ChatRequest, hand_over: Callable[[str], bool]) -> Reply:
        """Decodes one request; hands over each piece of text, and stops where that returns
        False."""
        [prompt] = encode_prompts(self.tokenizer, [request.messages])
        if failed := self._refusal(request, prompt):
            return failed
        began, shown = time.monotonic(), ""
        decoder = DecodeStream(skip_special_tokens=True)

        def take(token: int) -> bool:
            nonlocal shown
            piece = decoder.step(self.tokenizer.backend_tokenizer, token) or ""
            shown += piece
            return hand_over(piece)

        row = self._row(request, prompt, take)
        with self._adapter(request.adapter):
            for _ in decode_rows(self._model, [row], self._ends, self._pad):
                pass
        # The text of all tokens can end later than that of one after the other.
        text = self.tokenizer.decode(row.tokens, skip_special_tokens=True)
        if text.startswith(shown):
            hand_over(text[len(shown) :])
        seconds = time.monotonic() - began
        return Reply(request.id, text, row.finish_reason, len(prompt), len(row.tokens), seconds)

    def _refusal(self, request: ChatRequest, prompt: list[int]) -> Reply | None:
        """The failed reply of a request that cannot be answered, or None.

        Raises:
            ConfigError: the request names an adapter that is not loaded.
        """
        loaded = self._peft.peft_config if self._peft is not None else {}
        if request.adapter is not None and request.adapter not in loaded:
            raise ConfigError(
                f"no adapter '{request.adapter}' is loaded (there are: "
                f"{', '.join(loaded) or 'none'})"
            )
        error = self._grammars.problem(request.schema) if request.schema is not None else None
        if not error and len(prompt) + request.max_tokens > self._limit:
            error = (
                f"prompt has {len(prompt)} tokens and the reply up to {request.max_tokens}, "
                f"the model takes {self._limit}"
            )
        if not error:
            return None
        return Reply(request.id, "", "error", len(prompt), 0, 0.0, error, refused=True)

    def _row(
        self, request: ChatRequest, prompt: list[int], take: Callable[[int], bool] | None = None
    ) -> Row:
        """What is decoded for a request. `take` sees each token, and returns False to end it."""
        # The numbers that sampling needs follow from the content, not from the neighbours.
        uniforms = None
        if request.temperature > 0:
            content = f"{self._seed}:{request.adapter}:{request.temperature}:{prompt}"
            digest = hashlib.sha256(content.encode()).digest()
            generator = np.random.default_rng(int.from_bytes(digest[:8], "big"))
            uniforms = generator.random(request.max_tokens)
        grammar = self._grammars.start(request.schema) if request.schema is not None else None
        return Row(prompt, request.max_tokens, request.temperature, uniforms, grammar, take)

    def _chat_batch(self, batch: list[tuple[ChatRequest, list[int]]]) -> Iterator[Reply]:
        """Replies to (request, prompt ids), which have the same adapter, as they end."""
        began = time.monotonic()
        rows = [self._row(request, prompt) for request, prompt in batch]
        request_of = {id(row): request for row, (request, _) in zip(rows, batch, strict=True)}
        for row in decode_rows(self._model, rows, self._ends, self._pad):
            text = self.tokenizer.decode(row.tokens, skip_special_tokens=True)
            seconds, name = time.monotonic() - began, request_of[id(row)].id
            yield Reply(name, text, row.finish_reason, len(row.prompt), len(row.tokens), seconds)

    @contextlib.contextmanager
    def _adapter(self, name: str | None) -> Iterator[None]:
        """The model computes with this adapter; None: with the base model alone."""
        if self._peft is None:
            yield
        elif name is None:
            with self._peft.disable_adapter():
                yield
        else:
            self._peft.set_adapter(name, inference_mode=True)
            yield


def model_name(folder: Path, dtype: str, seed: int, adapters: dict[str, Path]) -> str:
    """The name of a model in cache keys: it follows from what its replies depend on."""
    prints = {name: fingerprint(Path(path)) for name, path in sorted(adapters.items())}
    return f"{folder.name}-{content_hash(fingerprint(folder), dtype, prints, seed)}"


def check_memory(folder: Path, dtype: str, device: str) -> None:
    """Checks that the weights alone fit into the free memory of `device`.

    Raises:
        ConfigError: they do not, or a file of weights is incomplete.
    """
    need = weights_gb(folder, dtype)
    free = free_memory_gb(device)
    if need > free:
        raise ConfigError(
            f"{folder} needs about {need:.1f} GiB, {device} has {free:.1f} GiB free: use a "
            "smaller or quantised model, or llm.backend=vllm with llm.advanced.tensor_parallel"
        )


def token_batches(
    pairs: list[tuple[ChatRequest, list[int]]], batch_tokens: int
) -> Iterator[list[Any]]:
    """Cuts (request, prompt ids) into batches of consecutive pairs, at least one in each.

    A batch has at most `batch_tokens` tokens: rows x (longest prompt + longest reply).
    """
    batch: list[tuple[ChatRequest, list[int]]] = []
    width = 0
    for pair in pairs:
        wider = max(width, len(pair[1]) + pair[0].max_tokens)
        if batch and (len(batch) + 1) * wider > batch_tokens:
            yield batch
            batch, wider = [], len(pair[1]) + pair[0].max_tokens
        batch.append(pair)
        width = wider
    if batch:
        yield batch


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """The ids of the tokens that end a reply.

    Raises:
        ConfigError: neither the model nor its tokenizer names one.
    """
    found = getattr(model.generation_config, "eos_token_id", None)
    found = found if found is not None else model.config.eos_token_id
    ends = {tokenizer.eos_token_id, *(found if isinstance(found, list) else [found])} - {None}
    if not ends:
        raise ConfigError(
            "neither the model nor its tokenizer names an end token (eos_token): replies would "
            "not end"
        )
    return frozenset(ends)
