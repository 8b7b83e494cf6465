"""`run.json`: what a run is, written once when it begins; with the checkpoints, all that resuming needs."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from engram import registry, spaces, specs
from engram.agents import presets  # noqa: F401, its parts are registered
from engram.agents.mind import MindSpec
from engram.bits import LAST
from engram.checkpoint.disk import Disk, bytes_in, read_small, replace_file, strict_json
from engram.checkpoint.store import TRIES, CheckpointStore, Loaded, state_digest
from engram.cluster.epochs import check_meta, damaged
from engram.errors import CheckpointError, EngramError, SpecError, WriteFailed, told, unwritten
from engram.registry import UnknownPart
from engram.run.folders import no_run
from engram.run.keeper import BEST_FOLDER, FOLDER
from engram.run.settings import FREE, RUN, RunSettings, check
from engram.specs import NEEDED, setting, spec

RUN_FILE = "run.json"
Q_LEARNER = "q-learning"
OF_AGENT = "agent."  # begins the names in `RunPlan.follows` that are settings of the agent
FORMAT = "engram-run/5"
MARGIN = 1 << 20  # steps that a run may go beyond its total, to the end of a block or an episode
LARGEST = 8 << 20  # bytes of run.json that are read


@spec
class RunPlan(RunSettings):
    """Everything that was chosen about a run. `env` is None for an environment that was given as an object."""

    env: str | None = setting(NEEDED, "the environment's id")
    agent: MindSpec = setting(NEEDED, "the agent")
    space: spaces.Space = setting(NEEDED, "what an observation of the environment looks like")
    actions: int = setting(NEEDED, "discrete actions of the environment", low=1)
    agents: int = setting(1, "agents of one environment, which are paid together", low=1, later=True)
    shown: dict[str, Any] | None = setting(None, "observations and actions as a host environment has them")
    data: str | None = setting(None, "a digest of what the environment reads from files, where it does", later=True)
    horizon: int = setting(
        NEEDED, "environment steps that schedules follow: `steps`, or more for a run in pieces", low=1
    )
    follows: tuple[str, ...] = setting((), "settings that were not given and follow the horizon, so grow with it")
    demonstration_rows: int = setting(0, "rows of the demonstrations that it was given", low=0)

    def check(self) -> None:
        """The seeds, and the length of a run with an external memory."""
        super().check()
        self.check_length(self.steps)

    def check_length(self, steps: int) -> None:
        """Raises SpecError for more steps than the agent can count: the clocks of an external memory have 32 bits."""
        if self.agent.has_external and steps > LAST - MARGIN:
            raise SpecError(
                f"the run of {steps:,} steps is longer than an external memory can count, {LAST - MARGIN:,} steps; "
                f"ask for fewer, or leave the memory out (external=none)"
            )

    def write(self, folder: Path) -> None:
        """Into `folder`/run.json, whole or not at all; WriteFailed if the disk refuses it."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            replace_file(folder / RUN_FILE, (json.dumps(self.json(), indent=2, allow_nan=False) + "\n").encode())
        except OSError as error:
            raise WriteFailed(unwritten(folder / RUN_FILE, error)) from None

    def json(self) -> dict[str, Any]:
        """What run.json holds, as JSON values; what came later and is as it was before is left out."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        values = {name: value for name, value in values.items() if name not in LATER or value != LATER[name]}
        return values | {"format": FORMAT, "agent": agent_to_json(self.agent), "space": spaces.to_json(self.space)}

    def digest(self) -> str:
        """SHA-256 over all that a run's course depends on. Every checkpoint holds it, so that a changed run.json is
        noticed; what a resume may change (`FREE`) is left out, and so are the schedules that follow the total.

        Raises: SpecError if the plan holds what JSON cannot.
        """
        values = {name: value for name, value in self.json().items() if name not in (*FREE, "horizon", "follows")}
        for path in self.schedules:
            _drop(values["agent"], path.split("."))
        try:
            text = json.dumps(values, sort_keys=True, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise SpecError(f"env_args cannot be stored with the run ({error}); give plain values") from None
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def schedules(self) -> list[str]:
        """The settings of the agent, by path, that follow the horizon."""
        return [name.removeprefix(OF_AGENT) for name in self.follows if name.startswith(OF_AGENT)]

    @classmethod
    def read(cls, folder: Path) -> "RunPlan":
        """From `folder`/run.json; CheckpointError if there is none or it is not one."""
        path = folder / RUN_FILE
        try:
            values = strict_json(read_small(Disk(), path, LARGEST), RUN_FILE)
        except FileNotFoundError:
            raise CheckpointError(f"{folder} holds no run ({RUN_FILE} is missing); {no_run(folder)}") from None
        except (OSError, CheckpointError) as error:
            raise CheckpointError(f"{path} cannot be read ({error}); restore it from a copy") from None
        return cls.of_json(values, path)

    @classmethod
    def of_json(cls, values: Any, path: Path) -> "RunPlan":
        """From what `json` gave. `path`: the file that held it, which a CheckpointError names."""
        _check_form(path, values, {item.name for item in dataclasses.fields(cls)} | {"format"})
        values = LATER | {name: value for name, value in values.items() if name != "format"}
        try:
            check({name: value for name, value in values.items() if name in RUN})
            values["log"] = tuple(values["log"])
            agent = agent_from_json(values.pop("agent"))
            values["follows"] = tuple(values["follows"])
            return cls(agent=agent, space=spaces.from_json(values.pop("space")), **values)
        except UnknownPart as part:
            raise CheckpointError(
                f"{path} needs {part.role}={part.name}, which is not known here; add --import MODULE with the module "
                f"that registers it (in Python: import that module first)"
            ) from None
        except (EngramError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} is damaged: {error}") from None


# Settings of a run that came after runs were stored, with what they are in those: see `specs.setting`.
LATER = {item.name: item.default for item in dataclasses.fields(RunPlan) if item.metadata.get("later")}


def team_of(agents: int) -> dict[str, int]:
    """What `build` is told of the agents of one environment: nothing of a single one, which every kind knows."""
    return {} if agents == 1 else {"agents": agents}


def agent_to_json(agent: MindSpec) -> dict[str, Any]:
    """The settings, and which kind of agent they are of; of a Q-learner it is left out, as it was before others."""
    name = registry.name_of("agent", type(agent))
    return ({} if name == Q_LEARNER else {"kind": name}) | specs.to_json(agent)


def agent_from_json(values: Any) -> MindSpec:
    """The inverse of `agent_to_json`."""
    kind = registry.find("agent", values.get("kind", Q_LEARNER))
    return specs.from_json(kind, {name: value for name, value in values.items() if name != "kind"})


def _drop(values: dict[str, Any], path: list[str]) -> None:
    """Takes out a nested value."""
    for name in path[:-1]:
        values = values[name]
    del values[path[-1]]


def _check_form(path: Path, values: Any, names: set[str]) -> None:
    """CheckpointError unless `values` have the format of this version, and every name of it."""
    found = values.get("format") if isinstance(values, dict) else None
    if found != FORMAT:
        told = "no format" if found is None else f"the format {found!r}"
        raise CheckpointError(
            f"{path} has {told}, but this version of Engram reads {FORMAT!r}; use the version that wrote it"
        )
    if wrong := sorted((set(values) | set(LATER)) ^ names):
        told = f"without {wrong[0]!r}" if wrong[0] in names else f"with {wrong[0]!r}, which is unknown"
        raise CheckpointError(f"{path} is damaged: it was found {told}; restore it from a copy")


def holds_run(folder: Path) -> bool:
    """Whether `folder` is a run directory."""
    return (folder / RUN_FILE).exists()


def info(run: str | Path, verify: bool = False) -> dict[str, Any]:
    """Facts about a run directory: its plan, its checkpoints, and the digest of its newest state.

    The digest reads the whole state, replay included. `verify` also checks every checkpoint's every byte. Another
    process may train the run meanwhile.
    """
    folder = Path(run)
    plan, store = RunPlan.read(folder), CheckpointStore(folder / FOLDER)
    loaded, state = _newest(store, partial(check_meta, folder / FOLDER))
    try:
        environment = loaded.meta["state"]["env"]
        level = max(environment["levels"], key=["exact", "replayed", "boundary"].index)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"the checkpoint holds another kind of state ({told(error)}); look at it with the version that wrote it"
        ) from None
    facts = {
        "env": plan.env,
        "preset": plan.preset,
        "step": loaded.step,
        "steps": plan.steps,
        "seed": plan.seed,
        "seeds": plan.seeds,
        "envs": plan.envs,
        "demonstrations": plan.demonstrations,
        "demonstration_rows": plan.demonstration_rows,
        "environment_state": level,
        "checkpoints": store.steps(),
        "checkpoint_id": loaded.id,
        "state_digest": state,
        "passed_over": loaded.passed_over,
        "best": {"step": loaded.meta["progress"]["best_step"], "return": loaded.meta["progress"]["best_return"]},
        "bytes": bytes_in(folder),
        "agent": agent_to_json(plan.agent),
    }
    problems = [*store.verify(), *_verify_best(folder), *damaged(folder / FOLDER)] if verify else []
    return facts | ({"problems": problems} if verify else {})


def _verify_best(run: Path) -> list[str]:
    """What is wrong with the best checkpoint; nothing where none is kept."""
    best = CheckpointStore(run / FOLDER / BEST_FOLDER)
    return [f"best: {problem}" for problem in best.verify()] if best.steps() else []


def _newest(store: CheckpointStore, check: Callable[[Any], None]) -> tuple[Loaded, str]:
    """The newest checkpoint and its digest. A newer one is taken where whoever trains the run deletes it meanwhile."""
    for _ in range(TRIES):
        loaded = store.load(check=check)
        try:
            return loaded, state_digest(loaded.arrays, loaded.meta["state"], loaded)
        except FileNotFoundError:
            continue
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"the checkpoint holds no state of a run ({told(error)})") from None
    raise CheckpointError(f"{store.folder} is written to faster than it can be read; try again when the run has ended")
