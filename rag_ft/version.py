"""The version number, and the folder in which this package stands."""

from pathlib import Path

__version__ = "0.2.0"
# Of a checkout: where `make vllm`, `make gguf` and `make quantise` put what they install.
CHECKOUT = Path(__file__).parents[1]
