"""The watchdog between a server and its client leaves no process behind."""

from __future__ import annotations

import signal
import subprocess
import sys

import psutil
import pytest

from rag_ft.llm import vllm_watchdog

# a server with a child of its own, which ignores SIGTERM when asked to
SERVER = """
import signal, subprocess, sys, time
if "stubborn" in sys.argv: signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
if "dies" in sys.argv: sys.exit(7)
time.sleep(600)
"""


CLIENT = """
import subprocess, sys, time
guard = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, start_new_session=True)
print(guard.pid, flush=True)
time.sleep(600)
"""


def start_guard(*arguments: str) -> tuple[subprocess.Popen[bytes], list[psutil.Process]]:
    """The guard, and [guard, server, the server's child]."""
    command = [sys.executable, vllm_watchdog.__file__, sys.executable, "-c", SERVER, *arguments]
    guard = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert guard.stdout
    child = psutil.Process(int(guard.stdout.readline()))
    me = psutil.Process(guard.pid)
    return guard, [me, *me.children(), child]


def all_gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=10)
    return not [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def test_the_guard_ends_the_whole_group_when_the_client_closes() -> None:
    guard, processes = start_guard()
    assert guard.stdin
    guard.stdin.close()
    guard.wait(timeout=10)
    assert all_gone(processes)


def test_the_guard_ends_the_whole_group_on_sigterm() -> None:
    guard, processes = start_guard()
    guard.terminate()
    guard.wait(timeout=10)
    assert all_gone(processes)


def test_what_a_server_that_died_left_behind_is_ended_too_and_its_code_is_told() -> None:
    guard, processes = start_guard("dies")
    assert guard.wait(timeout=10) == 7
    assert all_gone(processes)


@pytest.mark.slow
def test_a_server_that_will_not_end_is_killed_after_the_grace_time() -> None:
    guard, processes = start_guard("stubborn")
    guard.terminate()
    guard.wait(timeout=vllm_watchdog.GRACE_SECONDS + 10)
    assert all_gone(processes)


def test_killing_the_client_outright_leaves_no_server() -> None:
    command = [sys.executable, vllm_watchdog.__file__, sys.executable, "-c", SERVER]
    client = subprocess.Popen([sys.executable, "-c", CLIENT, *command], stdout=subprocess.PIPE)
    assert client.stdout
    guard = psutil.Process(int(client.stdout.readline()))
    client.stdout.readline()  # the server's child is there
    processes = [guard, *guard.children(recursive=True)]
    assert len(processes) == 3
    client.send_signal(signal.SIGKILL)
    client.wait()
    assert all_gone(processes)


def test_killing_the_guard_outright_ends_the_server() -> None:
    if sys.platform != "linux":
        pytest.skip("needs the parent-death signal of Linux")
    guard, [_, server, child] = start_guard()
    guard.kill()
    guard.wait()
    assert all_gone([server])
    child.kill()
