#!/bin/sh
# Measures every hot loop on this machine's GPU, with random weights of true shapes (no hub needed), runs every path that needs a GPU and the demo on it,
# and writes benchmarks/results/gpu-<device>-<date>.{json,md}.   scripts/gpu_check.sh [--tiny] [--skip demo,sft-8b,...]
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-$(test -x .venv/bin/python && echo .venv/bin/python || echo python3)}
export HF_HUB_OFFLINE=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv || echo "no nvidia-smi"
exec "$PYTHON" scripts/gpu_check.py "$@"
