"""A language model behind an OpenAI-compatible server: a running one, or vLLM started here."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rag_ft.config import LLMConfig
from rag_ft.errors import ConfigError, DataError
from rag_ft.llm.chat_template import (
    TEMPLATE_OPTIONS,
    encode_answers,
    encode_prompts,
    load_chat_tokenizer,
    safe_messages,
)
from rag_ft.llm.http_client import HttpClient, Request, Response
from rag_ft.llm.http_errors import server_message
from rag_ft.llm.interface import JSON_STYLE, ChatRequest, Messages, Reply
from rag_ft.llm.vllm_process import VLLMServer
from rag_ft.model_hub import check_adapter, fingerprint, resolve
from rag_ft.storage import content_hash

log = logging.getLogger(__name__)

JOBS_PER_REQUEST = 8  # prompt_logprobs takes memory in proportion to the tokens of a request
BYTES_PER_TOKEN = 256  # of a reply's JSON, far more than any honest one
SCHEMA_WORDS = ("response_format", "json_schema", "guided", "structured output")


def open_server(
    config: LLMConfig, adapters: dict[str, Path], log_path: Path | None = None
) -> ServerModel:
    """The model behind `config.base_url` (backend openai), or behind a vLLM server that starts on
    entering the context (backend vllm).

    Raises:
        ConfigError: the settings, the model's folder or an adapter are wrong.
    """
    prints = {
        name: f"{name}-{fingerprint(Path(path))[:8]}"
        for name, path in adapters.items()
        if check_adapter(name, Path(path))
    }
    if config.backend == "vllm":
        folder = resolve(config.required_model, "llm")
        load_chat_tokenizer(folder)
        server = VLLMServer(
            config, folder, {prints[name]: Path(path) for name, path in adapters.items()}, log_path
        )
        return ServerModel(config, adapters, prints, folder, server)
    if not config.base_url:
        raise ConfigError(
            "llm.backend is openai but llm.base_url is not set: give http://host:port/v1"
        )
    here = Path(config.required_model)
    return ServerModel(
        config, adapters, prints, here if (here / "config.json").is_file() else None, None
    )


class ServerModel:
    """A LanguageModel (see interface.py) over HTTP. Entering the context starts or checks the
    server.

    Replies are independent of each other, so `window` is 1. No seed is sent: it kills vLLM's CPU
    build.
    """

    window = 1

    def __init__(
        self,
        config: LLMConfig,
        adapters: dict[str, Path],
        served_adapters: dict[str, str],
        folder: Path | None,
        server: VLLMServer | None,
    ) -> None:
        self._config, self._folder, self._server = config, folder, server
        self._adapters, self._served = adapters, dict(served_adapters)
        self._base = "base" if server else config.required_model
        self._tokenizer = load_chat_tokenizer(folder) if folder else None
        self._schemas_enforced = True
        self._lora_enabled = bool(adapters)
        self._is_vllm = server is not None  # else found out on entering
        what = fingerprint(folder) if folder else config.model
        kind = (
            config.backend,
            config.dtype,
            config.advanced.quantization,
            sorted(served_adapters.items()),
        )
        self.name = f"{Path(config.required_model).name}-{content_hash(what, kind)}"

    def __enter__(self) -> ServerModel:
        try:
            url = self._server.start() if self._server else self._config.base_url or ""
            config = self._config
            self._client = HttpClient(
                url,
                config.advanced.concurrency,
                config.advanced.timeout_seconds,
                config.advanced.retries,
                self._server,
            )
            self._check_served()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if client := getattr(self, "_client", None):
            client.close()
        if self._server:
            self._server.stop()

    def chat(self, requests: Iterable[ChatRequest]) -> Iterator[Reply]:
        """Exactly one reply per request, as they come. Raises RagFtError where the server is
        gone."""
        again: list[ChatRequest] = []
        for request, response in self._client.stream((r, self._chat_request(r)) for r in requests):
            if self._schema_not_taken(request, response):
                again.append(request)
            else:
                yield _reply(request, response)
        for request, response in self._client.stream((r, self._chat_request(r)) for r in again):
            yield _reply(request, response)

    def answer_logprobs(self, jobs: Sequence[tuple[Messages, str]]) -> list[np.ndarray]:
        """By the base model, through /v1/completions with prompt_logprobs (a vLLM extension).

        Raises:
            ConfigError: the server has adapters (vLLM's LoRA kernels then give wrong values or
                die).
            DataError: the server does not score a job.
        """
        if self._lora_enabled:
            raise ConfigError(
                "a server with LoRA adapters cannot score answers: use llm.backend=transformers "
                "for it, "
                "or a server without adapters"
            )
        encoded = self._encode(jobs)
        parts = [
            range(i, min(i + JOBS_PER_REQUEST, len(jobs)))
            for i in range(0, len(jobs), JOBS_PER_REQUEST)
        ]
        results: list[np.ndarray] = [np.zeros(0, np.float32)] * len(jobs)
        for part, response in self._client.stream(
            (p, self._score_request([encoded[i] for i in p])) for p in parts
        ):
            if response.error:
                raise DataError(
                    f"the server at {self._client.base_url} does not score answers: "
                    f"{response.error}"
                )
            for i, logprobs in zip(part, response.result, strict=True):
                results[i] = logprobs
        return results

    def count_tokens(self, messages: Messages) -> int:
        """By the model's own tokenizer where its folder is here, else by the server's /tokenize."""
        if self._tokenizer:
            return len(encode_prompts(self._tokenizer, [messages])[0])
        return len(
            self._tokenize({"messages": list(safe_messages(messages)), **self._template_options()})
        )

    def _chat_request(self, request: ChatRequest) -> Request:
        specials = self._tokenizer.all_special_tokens if self._tokenizer else ()
        body: dict[str, Any] = {
            "model": self._model_of(request.adapter),
            "messages": list(safe_messages(request.messages, specials)),
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            **self._template_options(),
        }
        if request.schema is not None and self._schemas_enforced:
            # The server that we started reads the extra key and writes JSON as the in-process model
            # does.
            schema = request.schema | {"x-guidance": JSON_STYLE} if self._server else request.schema
            named = {"name": "reply", "schema": schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        return Request(
            "/chat/completions", body, _read_chat, max(2**20, BYTES_PER_TOKEN * request.max_tokens)
        )

    def _template_options(self) -> dict[str, Any]:
        """The options of the chat template. Servers other than vLLM may reject the field."""
        return {"chat_template_kwargs": TEMPLATE_OPTIONS} if self._is_vllm else {}

    def _score_request(self, jobs: list[tuple[list[int], list[int]]]) -> Request:
        body = {
            "model": self._base,
            "prompt": [p + a for p, a in jobs],
            "max_tokens": 1,
            "temperature": 0,
            "prompt_logprobs": 0,
        }
        return Request(
            "/completions", body, lambda reply: _read_logprobs(reply, jobs), max_bytes=256 * 2**20
        )

    def _schema_not_taken(self, request: ChatRequest, response: Response) -> bool:
        """Whether the server takes no JSON schema, so that the request is sent again without. Warns
        once."""
        if request.schema is None or response.error is None or response.status not in (400, 422):
            return False
        if not any(word in response.error.lower() for word in SCHEMA_WORDS):
            return False
        if self._schemas_enforced:
            log.warning(
                "the server takes no JSON schema (%s): replies are only checked", response.error
            )
        self._schemas_enforced = False
        return True

    def _model_of(self, adapter: str | None) -> str:
        if adapter is None:
            return self._base
        if adapter not in self._served:
            raise ConfigError(
                f"no adapter '{adapter}' is served (there are: {', '.join(self._served) or 'none'})"
            )
        return self._served[adapter]

    def _check_served(self) -> None:
        """The model and its adapters are there; adapters are loaded where the server allows it."""
        try:
            status, body = self._client.get("/models")
        except OSError as error:
            raise ConfigError(
                f"no server answers at {self._client.base_url} ({error}): start it, or correct "
                f"llm.base_url"
            ) from error
        if status in (401, 403):
            raise ConfigError(
                f"{self._client.base_url} rejected the API key (HTTP {status}): set OPENAI_API_KEY"
            )
        models = body.get("data") if isinstance(body, dict) else None
        served = {m["id"]: m for m in models or () if isinstance(m, dict) and "id" in m}
        if status != 200 or not isinstance(models, list) or (models and not served):
            log.warning(
                "%s/models lists no models (HTTP %s): llm.model is not checked",
                self._client.base_url,
                status,
            )
            return
        if self._base not in served:
            there = ", ".join(served) or "nothing"
            raise ConfigError(
                f"{self._client.base_url} does not serve '{self._base}' but {there}: set "
                f"llm.model to one of these"
            )
        self._lora_enabled = self._lora_enabled or any(m.get("parent") for m in served.values())
        self._is_vllm = self._is_vllm or served[self._base].get("owned_by") == "vllm"
        for name, served_name in self._served.items():
            if served_name not in served:
                self._load_adapter(name, served_name)

    def _load_adapter(self, name: str, served_name: str) -> None:
        path = Path(self._adapters[name]).resolve()
        status, body = self._client.post(
            "/load_lora_adapter", {"lora_name": served_name, "lora_path": str(path)}
        )
        if status != 200:
            raise ConfigError(
                f"{self._client.base_url} does not serve adapter '{served_name}' and would not "
                "load it "
                f"(HTTP {status}: {server_message(body)}): start it with --enable-lora "
                "--lora-modules "
                f"{served_name}={path}, or use llm.backend=vllm"
            )

    def _encode(self, jobs: Sequence[tuple[Messages, str]]) -> list[tuple[list[int], list[int]]]:
        if self._tokenizer:
            prompts = encode_prompts(self._tokenizer, [messages for messages, _ in jobs])
            return list(
                zip(
                    prompts,
                    encode_answers(self._tokenizer, [answer for _, answer in jobs]),
                    strict=True,
                )
            )
        return [
            (
                self._tokenize(
                    {"messages": list(safe_messages(messages)), **self._template_options()}
                ),
                self._tokenize({"prompt": answer, "add_special_tokens": False}),
            )
            for messages, answer in jobs
        ]

    def _tokenize(self, body: dict[str, Any]) -> list[int]:
        root = self._client.base_url.removesuffix("/v1")
        status, reply = self._client.post(f"{root}/tokenize", {"model": self._base, **body})
        if status != 200 or not isinstance(reply, dict) or "tokens" not in reply:
            raise ConfigError(
                f"{root} has no /tokenize (HTTP {status}): set llm.model to the model's folder if "
                "it is here"
            )
        return reply["tokens"]


def _read_chat(reply: Any) -> tuple[str, str, int, int]:
    """(text, finish reason, prompt tokens, completion tokens).

    No text is an empty one where the reply was cut off: the model spent all its tokens on
    reasoning.
    """
    choice = reply["choices"][0]
    text, finish_reason = choice["message"]["content"], choice.get("finish_reason")
    if text is None and finish_reason == "length":
        text = ""
    if not isinstance(text, str):
        raise ValueError("no text in the reply")
    if finish_reason not in ("stop", "length"):
        raise ValueError(f"finish reason {json.dumps(finish_reason)}")
    usage = reply.get("usage")
    told = usage if isinstance(usage, dict) else {}
    return text, finish_reason, told.get("prompt_tokens") or 0, told.get("completion_tokens") or 0


def _read_logprobs(reply: Any, jobs: list[tuple[list[int], list[int]]]) -> list[np.ndarray]:
    choices = sorted(reply["choices"], key=lambda choice: choice["index"])
    if len(choices) != len(jobs):
        raise ValueError(f"{len(choices)} results for {len(jobs)} prompts")
    results = []
    for choice, (prompt, answer) in zip(choices, jobs, strict=True):
        told = choice["prompt_logprobs"][len(prompt) :]
        values = [entry[str(token)]["logprob"] for entry, token in zip(told, answer, strict=True)]
        results.append(np.array(values, np.float32))
    return results


def _reply(request: ChatRequest, response: Response) -> Reply:
    if response.error:
        return Reply(
            request.id, "", "error", 0, 0, response.seconds, response.error, response.too_long
        )
    text, finish_reason, prompt_tokens, completion_tokens = response.result
    return Reply(
        request.id, text, finish_reason, prompt_tokens, completion_tokens, response.seconds
    )
