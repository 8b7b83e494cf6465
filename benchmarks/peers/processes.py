"""A peer's script in a process of its own, with the Python that the peer lives in."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.peers import machine
from benchmarks.peers.environments import interpreter
from benchmarks.record import HERE, ROOT, WORK

OURS = ("engram", "floor")  # scripts that run in Engram's own environment
TORCH = ("sb3", "torchrl")  # peers that would take every core for each small product


def told_by(script: str, peer: str, given: dict[str, Any], seconds: int = 900) -> dict[str, Any]:
    """The JSON object in the last line that `peers/SCRIPT_PEER.py --NAME VALUE ...` prints, and the machine's load."""
    python = ROOT / ".venv" / "bin" / "python" if peer in OURS else interpreter(peer, WORK)
    words = [str(python if Path(python).exists() else sys.executable), str(HERE / "peers" / f"{script}_{peer}.py")]
    words += [word for name, value in given.items() for word in (f"--{name}", str(value))]
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    threads = {"JAX_PLATFORMS": "cpu"} | kept | ({"OMP_NUM_THREADS": "1"} if peer in TORCH else {})
    watch = machine.Watch.start()
    done = subprocess.run(words, capture_output=True, text=True, env=threads, timeout=seconds)
    if done.returncode:
        raise SystemExit(f"{peer}: {done.stderr[-1_500:]}")
    return json.loads(done.stdout.splitlines()[-1]) | watch.stop()
