"""Opens the language model that the configuration names."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from rag_ft.config import LLMConfig
from rag_ft.llm.interface import LanguageModel


def open_language_model(
    config: LLMConfig,
    seed: int,
    adapters: dict[str, Path] | None = None,
    log_path: Path | None = None,
) -> AbstractContextManager[LanguageModel]:
    """The model of `config`, with LoRA adapters {name: folder} beside it.

    A vLLM server that is started writes its log to `log_path` (default: in a temporary folder).

    Raises:
        ConfigError: the model, the server or the hardware cannot do what `config` asks. Raised
            before any request is sent: here, or on entering the context.
    """
    # Each backend imports a heavy library, so only the one that is used is imported.
    if config.backend == "transformers":
        from rag_ft.llm.transformers_backend import TransformersModel

        return TransformersModel(config, seed, adapters or {})
    from rag_ft.llm.openai_backend import open_server

    return open_server(config, adapters or {}, log_path)


def language_model_name(config: LLMConfig, seed: int, adapters: dict[str, Path]) -> str:
    """The `name` of the model that open_language_model gives, without opening it.

    Raises:
        ConfigError: there is no such model or adapter.
    """
    if config.backend == "transformers":
        from rag_ft.hardware import choose_device, choose_dtype
        from rag_ft.llm.transformers_backend import model_name
        from rag_ft.model_hub import resolve

        dtype = choose_dtype(config.dtype, choose_device())
        return model_name(resolve(config.required_model, "llm"), dtype, seed, adapters)
    from rag_ft.llm.openai_backend import model_folder, names_on_server, server_name

    return server_name(config, model_folder(config), names_on_server(adapters))
