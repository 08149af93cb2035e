"""Runs llama.cpp's converter on a model's folder; a program of its own, started by gguf.py.

python hf_to_gguf.py LLAMA_CPP [--like-gpt2] arguments of convert_hf_to_gguf.py ...

`--like-gpt2`: where llama.cpp does not know how the model's tokenizer splits texts, its splitting
of GPT-2 is written into the file. gguf.py makes sure before that both give the same tokens.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any


def main(argv: list[str]) -> None:
    """Runs the converter."""
    folder, *arguments = argv
    sys.path.insert(0, folder)
    # Modules of llama.cpp's source, and no packages that could be installed.
    converter = importlib.import_module("convert_hf_to_gguf")
    text_model = importlib.import_module("conversion.base").TextModel

    if arguments[0] == "--like-gpt2":
        arguments = arguments[1:]
        known = text_model.get_vocab_base_pre

        def known_or_gpt2(self: Any, tokenizer: Any) -> str:
            try:
                return str(known(self, tokenizer))
            except NotImplementedError:
                return "gpt-2"

        text_model.get_vocab_base_pre = known_or_gpt2
    sys.argv = ["convert_hf_to_gguf.py", *arguments]
    converter.main()


if __name__ == "__main__":
    main(sys.argv[1:])
