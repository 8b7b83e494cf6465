"""One task in a process of its own, for whichever checkout's interpreter runs this file.

    .venv/bin/python benchmarks/house/child.py TASK '{"...": ...}'

It prints one line of JSON. It imports Engram and what Engram needs, nothing of `benchmarks`: an old checkout has
another one.
"""

import dataclasses
import json
import os
import sys
import time
from hashlib import sha256
from inspect import signature
from typing import Any

CURVE = ("step", "updates", "loss", "q_mean", "return_mean")  # metrics that are compared


class Lines:
    """A callback that keeps the lines of metrics."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def on_metrics(self, trainer: Any, metrics: dict[str, Any]) -> None:
        """Keep what does not depend on the clock."""
        self.rows.append({name: metrics.get(name) for name in CURVE})


def settings() -> dict[str, Any]:
    """How many fields the registered specs and the agent's own groups declare, and how many specs declare any."""
    import engram
    from engram import registry

    engram.preset  # noqa: B018, registers every part
    found = {registry.find(role, name) for role in registry.roles() for name in registry.names(role)}
    waiting = [engram.AgentSpec, *found]
    found = set()
    while waiting:
        kind = waiting.pop()
        if kind not in found:
            found.add(kind)
            waiting += [type(default) for field in dataclasses.fields(kind)
                        if dataclasses.is_dataclass(default := _default(field))]  # fmt: skip
    counts = [len(dataclasses.fields(kind)) for kind in found]
    return {"settings": sum(counts), "specs": sum(count > 0 for count in counts)}


def _default(field: Any) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def train(env: str, arguments: dict[str, Any], steps: int) -> dict[str, Any]:
    """Train once. Digests of the parameters and of the external memory, and the curve."""
    import engram

    lines = Lines()
    with engram.Trainer(env, callbacks=[lines], **arguments) as trainer:
        trainer.learn(steps)
        mind = trainer.trained().minds[0]
        found = leaves(mind.network), leaves(mind.recall)
    whole = sha256("".join(found[0]).encode()).hexdigest()
    return {"parameters": whole, "leaves": len(found[0]), "recall": found[1], "curve": lines.rows}


def leaves(tree: Any) -> list[str]:
    """SHA-256 of type, shape and bytes of every array of `tree`, sorted: names and order of fields do not count."""
    import jax
    import numpy as np

    found = []
    for leaf in jax.tree.leaves(tree):
        array = np.ascontiguousarray(leaf)
        found.append(sha256(f"{array.dtype} {array.shape} ".encode() + array.tobytes()).hexdigest())
    return sorted(found)


def speed(env: str, arguments: dict[str, Any], warm: int, steps: int) -> dict[str, Any]:
    """Train `warm` steps, compiling included, then time `steps` more: steps per second, updates, processor seconds."""
    import engram

    lines = Lines()
    if "evaluate_every" in signature(engram.Trainer).parameters:  # an old checkout has none
        arguments = {"evaluate_every": 0, **arguments}
    with engram.Trainer(env, steps=warm + steps, log_every=warm + steps, callbacks=[lines], **arguments) as trainer:
        trainer.learn(warm)
        before, began, used = trainer.steps, time.perf_counter(), time.process_time()
        trainer.learn(steps)
        seconds, used = time.perf_counter() - began, time.process_time() - used
        taken = trainer.steps - before
    first, last = lines.rows[0]["updates"], lines.rows[-1]["updates"]
    return {"rate": taken / seconds, "seconds": seconds, "processor_seconds": used, "warm_updates": first,
            "updates": last}  # fmt: skip


TASKS = {"settings": settings, "train": train, "speed": speed}


def main() -> None:
    # The folder of this file is on the path, and is not a place to import from.
    sys.path[:] = [place for place in sys.path if os.path.abspath(place) != os.path.dirname(os.path.abspath(__file__))]
    answer = TASKS[sys.argv[1]](**json.loads(sys.argv[2]))
    import engram

    print(json.dumps(answer | {"package": engram.__file__}))


if __name__ == "__main__":
    main()
