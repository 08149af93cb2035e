"""A language model behind an OpenAI-compatible server: a running one, or vLLM started here."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
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
    special_tokens,
)
from rag_ft.llm.http_client import HttpClient, Request
from rag_ft.llm.http_errors import server_message
from rag_ft.llm.interface import JSON_STYLE, ChatRequest, Messages, Reply, Stream
from rag_ft.llm.openai_replies import read_chat, read_logprobs, to_reply
from rag_ft.llm.server_stream import ServerStream
from rag_ft.llm.vllm_process import VLLMServer
from rag_ft.model_hub import check_adapter, fingerprint, resolve
from rag_ft.storage import content_hash

log = logging.getLogger(__name__)

JOBS_PER_REQUEST = 8  # prompt_logprobs takes memory in proportion to the tokens of a request
BYTES_PER_TOKEN = 256  # of a reply's JSON, far more than any server needs
# An error with one of these words is about the JSON schema of the request.
SCHEMA_WORDS = ("response_format", "json_schema", "guided", "structured output")


def open_server(
    config: LLMConfig, adapters: dict[str, Path], log_path: Path | None = None
) -> ServerModel:
    """The model behind the server at `config.base_url` (backend openai).

    With backend vllm, a vLLM server for the model's folder starts on entering the context.

    Raises:
        ConfigError: the settings, the model's folder or an adapter are wrong.
    """
    # Names carry the content, so that a server never answers with an older adapter of this name.
    served_names = names_on_server(adapters)
    if config.backend == "vllm":
        folder = resolve(config.required_model, "llm")
        load_chat_tokenizer(folder, config.advanced.trust_remote_code)
        served = {served_names[name]: Path(path) for name, path in adapters.items()}
        server = VLLMServer(config, folder, served, log_path)
        return ServerModel(config, adapters, served_names, folder, server)
    _ = config.required_base_url
    return ServerModel(config, adapters, served_names, model_folder(config), None)


def model_folder(config: LLMConfig) -> Path | None:
    """The folder of the model; None where only the running server has it.

    Raises:
        ConfigError: backend is vllm, and there is no such model here.
    """
    if config.backend == "vllm":
        return resolve(config.required_model, "llm")
    here = Path(config.required_model)
    return here if (here / "config.json").is_file() else None


def names_on_server(adapters: dict[str, Path]) -> dict[str, str]:
    """{name: name on the server} of adapters {name: folder}.

    Raises:
        ConfigError: a folder holds no adapter.
    """
    return {
        name: f"{name}-{fingerprint(Path(path))[:8]}"
        for name, path in adapters.items()
        if check_adapter(name, Path(path))
    }


def server_name(config: LLMConfig, folder: Path | None, served_adapters: dict[str, str]) -> str:
    """The name of a served model in cache keys: it follows from what its replies depend on.
    `folder` is the model's, where it is here."""
    what = fingerprint(folder) if folder else config.model
    served, quantization = sorted(served_adapters.items()), config.advanced.quantization
    kind = (config.backend, config.dtype, quantization, served)
    return f"{Path(config.required_model).name}-{content_hash(what, kind)}"


class ServerModel:
    """A LanguageModel (see interface.py) over HTTP.

    Entering the context starts the server, or checks that one is running there. `adapters` are
    {name: folder}, `served_adapters` {name: name on the server}. `folder` is the model's, where it
    is on this machine. `server` is the one that we start, or None. Replies are independent of each
    other, so `window` is 1. No seed is sent: it kills vLLM's CPU build.
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
        trust_code = config.advanced.trust_remote_code
        self._tokenizer = load_chat_tokenizer(folder, trust_code) if folder else None
        self._schemas_enforced = True
        self._lora_enabled = bool(adapters)
        # A running server says on entering whether it is vLLM.
        self._is_vllm = server is not None
        self.name = server_name(config, folder, served_adapters)

    def __enter__(self) -> ServerModel:
        try:
            url = self._server.start() if self._server else self._config.base_url or ""
            settings = self._config.advanced
            self._client = HttpClient(
                url,
                settings.concurrency,
                settings.timeout_seconds,
                settings.retries,
                self._server,
            )
            self._check_served()
        except BaseException:
            # Also on an interrupt: a server that has started must not outlive this process.
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if client := getattr(self, "_client", None):
            client.close()
        if self._server:
            self._server.stop()

    def chat(self, requests: Iterable[ChatRequest]) -> Iterator[Reply]:
        """Exactly one reply per request, as they come.

        A server that takes no JSON schema gets the requests without one, with one warning.

        Raises:
            RagFtError: the server is gone, rejects the API key, or fails every request.
        """
        again: list[ChatRequest] = []
        for request, response in self._client.stream((r, self._chat_request(r)) for r in requests):
            error = (response.error or "").lower()
            rejected = request.schema is not None and response.status in (400, 422)
            if not rejected or not any(word in error for word in SCHEMA_WORDS):
                yield to_reply(request, response)
                continue
            if self._schemas_enforced:
                log.warning(
                    "the server takes no JSON schema (%s): replies are only checked", response.error
                )
            self._schemas_enforced = False
            again.append(request)
        for request, response in self._client.stream((r, self._chat_request(r)) for r in again):
            yield to_reply(request, response)

    @contextlib.asynccontextmanager
    async def streaming(self) -> AsyncIterator[Stream]:
        """Requests run side by side. A server of our own that died is started again."""
        async with ServerStream(self._client.base_url, self._config, self._server) as server:
            yield lambda request: server.stream(request, self._chat_request(request).body)

    def answer_logprobs(self, jobs: Sequence[tuple[Messages, str]]) -> list[np.ndarray]:
        """By the base model, through /v1/completions with prompt_logprobs (a vLLM extension).

        Raises:
            ConfigError: the server has adapters (vLLM's LoRA kernels then give wrong values or
                die), or has no /tokenize and the model's folder is not here.
            DataError: the server does not score a job.
        """
        if self._lora_enabled:
            raise ConfigError(
                "a server with LoRA adapters cannot score answers: use llm.backend=transformers "
                "for it, or a server without adapters"
            )
        if self._tokenizer:
            prompts = encode_prompts(self._tokenizer, [messages for messages, _ in jobs])
            answers = encode_answers(self._tokenizer, [answer for _, answer in jobs])
        else:
            prompts = [self._prompt_tokens(messages) for messages, _ in jobs]
            answers = [
                self._tokenize({"prompt": answer, "add_special_tokens": False})
                for _, answer in jobs
            ]
        encoded = list(zip(prompts, answers, strict=True))

        def score_requests() -> Iterator[tuple[range, Request]]:
            for start in range(0, len(jobs), JOBS_PER_REQUEST):
                part = range(start, min(start + JOBS_PER_REQUEST, len(jobs)))
                scored = [encoded[i] for i in part]
                body = {
                    "model": self._base,
                    "prompt": [prompt + answer for prompt, answer in scored],
                    "max_tokens": 1,
                    "temperature": 0,
                    "prompt_logprobs": 0,
                }
                read = functools.partial(read_logprobs, jobs=scored)
                yield part, Request("/completions", body, read, max_bytes=256 * 2**20)

        results: list[np.ndarray] = [np.zeros(0, np.float32)] * len(jobs)
        for part, response in self._client.stream(score_requests()):
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
        return len(self._prompt_tokens(messages))

    def _chat_request(self, request: ChatRequest) -> Request:
        """The request in the form of the protocol."""
        if request.adapter is not None and request.adapter not in self._served:
            raise ConfigError(
                f"no adapter '{request.adapter}' is served (there are: "
                f"{', '.join(self._served) or 'none'})"
            )
        specials = special_tokens(self._tokenizer) if self._tokenizer else ()
        body: dict[str, Any] = {
            "model": self._served[request.adapter] if request.adapter is not None else self._base,
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
        max_bytes = max(2**20, BYTES_PER_TOKEN * request.max_tokens)
        return Request("/chat/completions", body, read_chat, max_bytes)

    def _template_options(self) -> dict[str, Any]:
        """The options of the chat template. Servers other than vLLM may reject the field."""
        return {"chat_template_kwargs": TEMPLATE_OPTIONS} if self._is_vllm else {}

    def _check_served(self) -> None:
        """Checks that the server has the model and its adapters; loads adapters where it may.

        Raises:
            ConfigError: no server answers, it rejects the API key, or it lacks one of them.
        """
        url = self._client.base_url
        try:
            status, body = self._client.get("/models")
        except OSError as error:
            raise ConfigError(
                f"no server answers at {url} ({error}): start it, or correct llm.base_url"
            ) from error
        if status in (401, 403):
            raise ConfigError(f"{url} rejected the API key (HTTP {status}): set OPENAI_API_KEY")
        models = body.get("data") if isinstance(body, dict) else None
        served = {m["id"]: m for m in models or () if isinstance(m, dict) and "id" in m}
        # Some servers have no such list: the first request will show whether the model is there.
        if status != 200 or not isinstance(models, list) or (models and not served):
            log.warning(
                "%s/models lists no models (HTTP %s): llm.model is not checked", url, status
            )
            return
        if self._base not in served:
            there = ", ".join(served) or "nothing"
            raise ConfigError(
                f"{url} does not serve '{self._base}' but {there}: set llm.model to one of these"
            )
        # vLLM lists an adapter with the model that it belongs to.
        self._lora_enabled = self._lora_enabled or any(m.get("parent") for m in served.values())
        self._is_vllm = self._is_vllm or served[self._base].get("owned_by") == "vllm"
        # vLLM loads an adapter at run time where VLLM_ALLOW_RUNTIME_LORA_UPDATING allows it.
        for name, served_name in self._served.items():
            if served_name in served:
                continue
            path = Path(self._adapters[name]).resolve()
            lora = {"lora_name": served_name, "lora_path": str(path)}
            status, body = self._client.post("/load_lora_adapter", lora)
            if status != 200:
                raise ConfigError(
                    f"{url} does not serve adapter '{served_name}' and does not load it (HTTP "
                    f"{status}: {server_message(body)}): start it with --enable-lora "
                    f"--lora-modules {served_name}={path}, or use llm.backend=vllm"
                )

    def _prompt_tokens(self, messages: Messages) -> list[int]:
        """Prompt token ids by the server's own tokenizer and template."""
        return self._tokenize(
            {"messages": list(safe_messages(messages)), **self._template_options()}
        )

    def _tokenize(self, body: dict[str, Any]) -> list[int]:
        root = self._client.base_url.removesuffix("/v1")
        status, reply = self._client.post(f"{root}/tokenize", {"model": self._base, **body})
        if status != 200 or not isinstance(reply, dict) or "tokens" not in reply:
            raise ConfigError(
                f"{root} has no /tokenize (HTTP {status}): set llm.model to the model's folder if "
                "it is here"
            )
        return reply["tokens"]
