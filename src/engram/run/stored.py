"""The agent of a stored run."""

from pathlib import Path

from engram.play.trained import Environment, TrainedAgent
from engram.run.folders import holds_packed
from engram.run.keeper import NEWEST, At, Keeper
from engram.run.machine import use_cache
from engram.run.making import make_agent
from engram.run.packed import load_packed
from engram.run.plan import RunPlan
from engram.run.warm import parse_at


def load(run: str | Path, env: Environment | None = None, at: At = NEWEST, trust: bool = False) -> TrainedAgent:
    """The agent of a stored run, to evaluate and predict with; the run itself may go on meanwhile.

    `run` may also be a shared folder, as `engram pack` writes it and `engram pull` gets it.

    `at`: of which checkpoint: the `newest`, the `best` by the evaluations while it trained, or that of a step.

    Loading runs no code of the run's files. Where evaluating would, because they name a module of an environment, it is
    refused without `trust`.

    Raises CheckpointError where there is no such run or checkpoint.
    """
    folder = Path(run)
    use_cache()
    if holds_packed(folder):
        return load_packed(folder, env, at, trust)
    plan = RunPlan.read(folder)
    kept = Keeper(folder, plan.digest()).minds(make_agent(plan, stored=True), parse_at(str(at)))
    trained = TrainedAgent(plan, kept.minds, env, trust=trust)
    trained.step, trained.checkpoint = kept.step, kept.id
    return trained
