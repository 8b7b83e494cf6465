"""`run.json`: what a run is, written once when it begins; with the checkpoints, all that resuming needs."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engram import spaces, specs
from engram.agents.spec import AgentSpec
from engram.checkpoint.store import CheckpointStore, state_digest
from engram.errors import CheckpointError, EngramError, SpecError
from engram.run.keeper import FOLDER
from engram.run.metrics import replace_file

RUN_FILE = "run.json"
FORMAT = "engram-run/3"
FREE = ("steps", "save_every", "log_every", "track")  # what a resumed run may be given anew


@dataclass(frozen=True)
class RunPlan:
    """Everything that was chosen about a run. `env` is None for an environment that was given as an object."""

    env: str | None
    preset: str
    agent: AgentSpec
    space: spaces.Space
    actions: int
    steps: int
    seed: int = 0
    seeds: int = 1
    envs: int = 1
    asynchronous: bool = False
    group: int = 1
    action_bins: int | None = None
    env_args: dict[str, Any] = field(default_factory=dict)
    track: bool = False
    save_every: int = 10_000
    log_every: int = 500

    def write(self, folder: Path) -> None:
        """Into `folder`/run.json, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / RUN_FILE, (json.dumps(self._json(), indent=2, allow_nan=False) + "\n").encode())

    def _json(self) -> dict[str, Any]:
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return values | {"format": FORMAT, "agent": specs.to_json(self.agent), "space": spaces.to_json(self.space)}

    def digest(self) -> str:
        """SHA-256 over all that a run's course depends on. Every checkpoint holds it, so that a changed run.json is
        noticed; what a resume may change (`FREE`) is left out.

        Raises: SpecError if the plan holds what JSON cannot.
        """
        values = {name: value for name, value in self._json().items() if name not in FREE}
        try:
            text = json.dumps(values, sort_keys=True, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise SpecError(f"env_args cannot be stored with the run ({error}); give plain values") from None
        return hashlib.sha256(text.encode()).hexdigest()

    @classmethod
    def read(cls, folder: Path) -> "RunPlan":
        """From `folder`/run.json; CheckpointError if there is none or it is not one."""
        path = folder / RUN_FILE
        try:
            values = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise CheckpointError(
                f"{folder} holds no run ({RUN_FILE} is missing); start one with: engram train ENV"
            ) from None
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read ({error}); restore it from a copy") from None
        known = {item.name for item in dataclasses.fields(cls)}
        if not isinstance(values, dict) or values.pop("format", None) != FORMAT or set(values) != known:
            raise CheckpointError(f"{path} is not a run of this version ({FORMAT}); use the version that wrote it")
        try:
            check_numbers(values)
            agent = specs.from_json(AgentSpec, values.pop("agent"))
            return cls(agent=agent, space=spaces.from_json(values.pop("space")), **values)
        except (EngramError, AttributeError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} is damaged: {error}") from None


LEAST = {"steps": 1, "seed": 0, "seeds": 1, "envs": 1, "group": 1, "save_every": 1, "log_every": 1}
SEEDS = 1 << 32  # JAX makes a key of 32 bits of a seed: larger ones would repeat


def check_numbers(chosen: Mapping[str, Any]) -> None:
    """SpecError for a number of a plan that is too small, too large, or not whole."""
    if isinstance(seed := chosen.get("seed", 0), int) and seed + chosen.get("seeds", 1) > SEEDS:
        raise SpecError(f"seed = {seed} was given; expected seeds below 2^32 = {SEEDS}")
    for name, low in LEAST.items():
        value = chosen.get(name, low)
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise SpecError(f"{name} = {value!r} was given; expected a whole number, at least {low}")


def holds_run(folder: Path) -> bool:
    """Whether `folder` is a run directory."""
    return (folder / RUN_FILE).exists()


def info(run: str | Path, verify: bool = False) -> dict[str, Any]:
    """Facts about a run directory: its plan, its checkpoints, and the digest of its newest state.

    The digest reads the whole state, replay included. `verify` also checks every checkpoint's every byte.
    """
    folder = Path(run)
    plan, store = RunPlan.read(folder), CheckpointStore(folder / FOLDER)
    loaded = store.load()
    environment = loaded.meta["state"]["env"]
    facts = {
        "env": plan.env,
        "preset": plan.preset,
        "step": loaded.step,
        "steps": plan.steps,
        "seed": plan.seed,
        "seeds": plan.seeds,
        "envs": plan.envs,
        "environment_state": max(environment["levels"], key=["exact", "replayed", "boundary"].index),
        "checkpoints": store.steps(),
        "checkpoint_id": loaded.id,
        "state_digest": state_digest(loaded.arrays, loaded.meta["state"], loaded),
        "passed_over": loaded.passed_over,
        "bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        "agent": specs.to_json(plan.agent),
    }
    return facts | ({"problems": store.verify()} if verify else {})
