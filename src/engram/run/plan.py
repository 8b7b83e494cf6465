"""`run.json`: what a run is, written once when it begins; with the checkpoints, all that resuming needs."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from engram import spaces, specs
from engram.agents.spec import AgentSpec
from engram.checkpoint.store import CheckpointStore, state_digest
from engram.errors import CheckpointError, EngramError, SpecError
from engram.registry import UnknownPart
from engram.run.keeper import FOLDER
from engram.run.metrics import replace_file
from engram.run.settings import FREE, RUN, RunSettings, check
from engram.specs import NEEDED, setting, spec

RUN_FILE = "run.json"
FORMAT = "engram-run/5"


@spec
class RunPlan(RunSettings):
    """Everything that was chosen about a run. `env` is None for an environment that was given as an object."""

    env: str | None = setting(NEEDED, "the environment's id")
    agent: AgentSpec = setting(NEEDED, "the agent")
    space: spaces.Space = setting(NEEDED, "what an observation of the environment looks like")
    actions: int = setting(NEEDED, "discrete actions of the environment", low=1)

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
        _check_form(path, values, {item.name for item in dataclasses.fields(cls)} | {"format"})
        del values["format"]
        try:
            check({name: value for name, value in values.items() if name in RUN})
            agent = specs.from_json(AgentSpec, values.pop("agent"))
            return cls(agent=agent, space=spaces.from_json(values.pop("space")), **values)
        except UnknownPart as part:
            raise CheckpointError(
                f"{path} needs {part.role}={part.name}, which is not known here; add --import MODULE with the module "
                f"that registers it (in Python: import that module first)"
            ) from None
        except (EngramError, AttributeError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} is damaged: {error}") from None


def _check_form(path: Path, values: Any, names: set[str]) -> None:
    """CheckpointError unless `values` have the format of this version, and every name of it."""
    found = values.get("format") if isinstance(values, dict) else None
    if found != FORMAT:
        told = "no format" if found is None else f"the format {found!r}"
        raise CheckpointError(
            f"{path} has {told}, but this version of Engram reads {FORMAT!r}; use the version that wrote it"
        )
    if wrong := sorted(set(values) ^ names):
        told = f"without {wrong[0]!r}" if wrong[0] in names else f"with {wrong[0]!r}, which is unknown"
        raise CheckpointError(f"{path} is damaged: it was found {told}; restore it from a copy")


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
