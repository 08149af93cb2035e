"""Runs a command that serves, until its page can be read, and ends it as Ctrl-C does.

python serve_briefly.py serve configs/demo.yaml ...
"""

from __future__ import annotations

import signal
import subprocess
import sys
import urllib.request

words = sys.argv[1:]
if "--port" in words:  # another program of this machine may have it
    at = words.index("--port")
    del words[at : at + 2]
command = [sys.executable, "-m", "rag_ft", *words, "--port", "0"]
server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
assert server.stdout
address = server.stdout.readline().split()[-1:]
if address:
    urllib.request.urlopen(address[0], timeout=60).close()
    server.send_signal(signal.SIGINT)
server.stdout.read()
sys.exit(server.wait() or not address)
