"""What an action costs over HTTP: p50 and p99 of `engram serve` under clients on loopback, one call of the network each
or several requests in one, with sessions in memory and on the disk.

    python -m benchmarks.speed.serve                      every cell, 5 repeats: about 5 minutes
    python -m benchmarks.speed.serve --cells 'nec*'       some of them; --list shows all
    python -m benchmarks.speed.serve --continue           only what the result file still lacks

The server is a process of its own, started as a user starts it. The clients are threads of this process, each with one
connection that it keeps, and one session where the agent needs one. Each sends its next request when it has its answer.
So 8 clients never have more than 8 requests under way, and the clients take processor time from the server. Latency is
from the first byte sent to the last byte read. Each repeat has so many requests of every client, after some that are
not counted. `alone` is one client with nobody beside it. A call of the network without HTTP is timed beside them, in
this process.
"""

import argparse
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from benchmarks.record import WORK, Record, add_flags

AGENTS: dict[str, dict[str, Any]] = {
    "dqn": {"preset": "dqn", "steps": 2_000},
    "drqn": {"preset": "drqn", "steps": 1_000},
    "nec": {"preset": "nec", "steps": 6_000, "external__capacity": 10_000},
}
CELLS: dict[str, tuple[str, list[str]]] = {
    "dqn": ("dqn", []),
    "dqn, batch 8": ("dqn", ["--batch", "8"]),
    "drqn": ("drqn", []),
    "drqn, batch 8": ("drqn", ["--batch", "8"]),
    "drqn, sessions on disk": ("drqn", ["--sessions"]),
    "nec": ("nec", []),
    "nec, batch 8": ("nec", ["--batch", "8"]),
}
RATE = "1000000"  # requests a second from one address: no limit here


def run_of(name: str, record: Record) -> Path:
    """A run of an agent, which is trained once."""
    import engram

    folder = record.place(WORK / "serve" / name)
    if not (folder / "run.json").exists():
        given = dict(AGENTS[name])
        with engram.Trainer("CartPole-v1", given.pop("preset"), run=folder, seed=0, **given) as trainer:
            trainer.learn()
    return folder


@contextmanager
def server(run: Path, words: list[str]) -> Iterator[tuple[int, str]]:
    """Port and token of a server that runs meanwhile."""
    with tempfile.TemporaryDirectory() as folder:
        if "--sessions" in words:
            words = [*words, str(Path(folder) / "sessions")]
        command = [sys.executable, "-m", "engram", "serve", str(run), "--limit-rate", RATE, *words]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        told: dict[str, str] = {}
        while "stop" not in told:
            line = process.stdout.readline()
            if not line:
                raise SystemExit(f"{' '.join(command)} ended")
            name, _, text = line.partition("  ")
            told[name] = text.strip()
        try:
            yield int(urlsplit(told["serving"].rpartition(" on ")[2]).port or 0), told["token"]
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)


def client(port: int, token: str, requests: int, seed: int, seconds: list[float], sizes: list[int]) -> None:
    """So many requests, one after another; their latencies are added to `seconds`."""
    link = http.client.HTTPConnection("127.0.0.1", port)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    random, session = np.random.default_rng(seed), None
    for _ in range(requests):
        seen = random.normal(0, 0.1, 4).tolist()
        body = json.dumps({"observation": seen, "session": session})
        began = time.perf_counter()
        link.request("POST", "/act", body, headers)
        answer = link.getresponse()
        content = answer.read()
        seconds.append(time.perf_counter() - began)
        if answer.status != 200:
            raise SystemExit(content.decode())
        session = json.loads(content)["session"]
        sizes.append(len(content))
    link.close()


def measured(port: int, token: str, clients: int, requests: int, seed: int) -> dict[str, Any]:
    """Latencies in milliseconds and answers a second of so many clients at once."""
    seconds: list[list[float]] = [[] for _ in range(clients)]
    sizes: list[int] = []
    threads = [
        threading.Thread(target=client, args=(port, token, requests, seed + place, seconds[place], sizes))
        for place in range(clients)
    ]
    began, processor = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    each = 1e3 * np.concatenate(seconds)
    if len(each) != clients * requests:
        raise SystemExit("a client ended too early")
    return {
        "p50_ms": float(np.percentile(each, 50)),
        "p99_ms": float(np.percentile(each, 99)),
        "greatest_ms": float(each.max()),
        "per_second": len(each) / took,
        "requests": len(each),
        "bytes": float(np.mean(sizes)),
        "client_processor_share": (time.process_time() - processor) / took,
    }


def call(run: Path, calls: int) -> dict[str, float]:
    """Milliseconds of one decision in this process, without HTTP."""
    import engram
    from engram.serving.deciding import Asked, Decider

    decider = Decider(engram.load(run), 1)
    decider.warm()
    rows = decider.reader([0.1, 0.2, 0.3, 0.4])
    took = []
    for _ in range(calls):
        began = time.perf_counter()
        decider.decide([Asked(rows, None, 0.0)])
        took.append(1e3 * (time.perf_counter() - began))
    return {"p50_ms": float(np.percentile(took, 50)), "p99_ms": float(np.percentile(took, 99))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="*", default=["*"], help="names or patterns")
    parser.add_argument("--list", action="store_true", help="print the names of all cells")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=200, help="of each client in a repeat")
    parser.add_argument("--repeats", type=int, default=5)
    add_flags(parser, "serve")
    options = parser.parse_args()
    if options.list:
        print("\n".join(CELLS))
        return
    settings = {"clients": options.clients, "requests": options.requests, "repeats": options.repeats}
    record = Record(options, settings | {"env": "CartPole-v1", "agents": AGENTS})
    for name, (agent, words) in CELLS.items():
        if name in record.parts or not any(fnmatch(name, one) for one in options.cells):
            continue
        run = run_of(agent, record)
        with server(run, list(words)) as (port, token):
            measured(port, token, options.clients, 20, 0)
            repeats = []
            for repeat in range(options.repeats):
                load = os.getloadavg()[0]
                found = measured(port, token, options.clients, options.requests, 100 * repeat)
                repeats.append(found | {"load_before": load})
            alone = measured(port, token, 1, options.requests, 7)
        part = {"agent": agent, "flags": words, "repeats": repeats, "alone": alone, "call": call(run, 300)}
        record.put(name, part)
        print(line(name, part), flush=True)
    record.summarize({name: summary(part) for name, part in record.parts.items()})


def summary(part: dict[str, Any]) -> dict[str, Any]:
    """Medians over repeats, with the least and the greatest."""
    found = {}
    for name in ("p50_ms", "p99_ms", "per_second"):
        values = sorted(repeat[name] for repeat in part["repeats"])
        found[name] = [values[len(values) // 2], values[0], values[-1]]
    return found | {"alone_p50_ms": part["alone"]["p50_ms"], "call_p50_ms": part["call"]["p50_ms"]}


def line(name: str, part: dict[str, Any]) -> str:
    """A cell in a line."""
    told = summary(part)
    (p50, *_), (p99, *_), (rate, *_) = told["p50_ms"], told["p99_ms"], told["per_second"]
    return (
        f"{name:24} p50 {p50:7.2f} ms  p99 {p99:7.2f} ms  {rate:7.0f}/s  alone {told['alone_p50_ms']:6.2f} ms  "
        f"call {told['call_p50_ms']:6.3f} ms"
    )


if __name__ == "__main__":
    main()
