"""What must be known to use an exported policy, as JSON: its inputs and outputs, how an episode begins, its actions."""

from importlib.metadata import version
from typing import Any

import numpy as np

from engram import specs
from engram.agents.mind import MindSpec
from engram.envs.host.parts import Part
from engram.envs.host.spaces import Observer
from engram.envs.host.stored import space_from_json
from engram.envs.names import action_names, names_of
from engram.errors import SpecError
from engram.exporting.step import NEXT, Port, Step, step_of
from engram.external.sharded import Sharded
from engram.play.trained import TrainedAgent
from engram.spaces import Text

FORMAT = "engram-export/1"
MOST_NAMES = 1_000  # actions that are named one by one


def step_of_agent(agent: TrainedAgent, seed: int = 0) -> Step:
    """The step of one of the agents of a run. SpecError for one whose entries are in shards, which programs ask."""
    if isinstance(agent.minds[seed].network.external, Sharded):
        raise SpecError(
            "the entries of this agent's memory are in shards of its run, and no exported program can ask them; "
            "export the run's directory, which holds them in one table"
        )
    return step_of(agent.plan.agent, agent.minds[seed], parts_of(agent))


def parts_of(agent: TrainedAgent) -> list[Part] | None:
    """How a host environment shows the parts of its observations; None for one of the device."""
    shown = agent.plan.shown
    return None if shown is None else Observer(space_from_json(shown["observation"])).parts


def about(agent: TrainedAgent, step: Step, seed: int = 0) -> dict[str, Any]:
    """All of it as JSON values.

    | name      | what it holds                                                                                  |
    |-----------|------------------------------------------------------------------------------------------------|
    | `inputs`  | name, shape, dtype and meaning; what goes in at an episode's first step (`initial`), and what   |
    |           | output goes in after it (`from`); `memory` for the entries of an external memory               |
    | `outputs` | name, shape, dtype and meaning                                                                 |
    | `actions` | how many, their names, and what each is to the environment                                     |
    | `run`     | where the policy comes from                                                                    |
    | `agent`   | what it is made of                                                                             |
    | `notes`   | sentences                                                                                      |
    """
    plan = agent.plan
    made_from = {"env": plan.env, "env_args": dict(plan.env_args), "preset": plan.preset, "seed": plan.seed + seed}
    return {
        "format": FORMAT,
        "engram": version("engram-rl"),
        "run": {**made_from, "step": agent.step, "checkpoint": agent.checkpoint},
        "inputs": [_input(port, step, agent) for port in step.inputs],
        "outputs": [_port(port) for port in step.outputs],
        "actions": _actions(agent),
        "agent": specs.to_json(plan.agent),
        "notes": notes_of(plan.agent, step),
    }


def _port(port: Port) -> dict[str, Any]:
    shape = ["batch", *port.shape] if port.batched else list(port.shape)
    return {"name": port.name, "shape": shape, "dtype": port.dtype, "meaning": port.meaning}


def _input(port: Port, step: Step, agent: TrainedAgent) -> dict[str, Any]:
    told, texts, numbers = _port(port), texts_of(agent), names_of(None, agent.plan.env).numbers
    if port.name in texts:
        told["characters"] = texts[port.name]
    if port.name == "observation" and port.shape == (len(numbers),):
        told["numbers"] = list(numbers)
    if not port.batched:
        return told | {"memory": True}
    if port.name in step.start:
        told["initial"] = _plain(step.start[port.name])
    if any(output.name == NEXT + port.name for output in step.outputs):
        told["from"] = NEXT + port.name
    return told


def _plain(value: np.ndarray) -> Any:
    """An array as JSON: one number if all are equal, the word "nan" for a NaN."""
    flat = value.reshape(-1)
    if flat.size and (np.isnan(flat).all() if flat.dtype.kind == "f" else False):
        return "nan"
    return flat[0].item() if flat.size and (flat == flat[0]).all() else value.tolist()


def texts_of(agent: TrainedAgent) -> dict[str, str]:
    """The characters of each text that the environment shows, by the name of its input."""
    texts = [part for part in parts_of(agent) or () if isinstance(part.stored, Text)]
    return {f"observation.{part.path}" if part.path else "observation": part.sizes for part in texts}


def _actions(agent: TrainedAgent) -> dict[str, Any]:
    plan = agent.plan
    found: dict[str, Any] = {"count": plan.actions}
    if plan.actions <= MOST_NAMES:
        found["names"] = action_names(None, plan.env, plan.actions)
    sizes = agent.minds[0].network.sizes
    if sizes:
        found["sizes"] = list(sizes)
    return found | ({"environment": plan.shown["actions"]} if plan.shown is not None else {})


def notes_of(spec: MindSpec, step: Step) -> list[str]:
    """What a reader could take for granted wrongly, in sentences."""
    names = [port.name for port in step.outputs]
    notes = ["output `next.X` is the input `X` of the next step; at an episode's first step `X` is its `initial`"]
    if "logits" in names:
        notes.append("the agent has a policy: `action` is its likeliest action, and no sample")
    if spec.head.predicts == "quantiles" and "logits" not in names:
        notes.append("`q` is the mean of quantiles at even levels, the same at every step; training may draw them")
    if spec.head.predicts == "fixed" and "logits" not in names:
        notes.append("`q` is the mean of a distribution over fixed returns")
    if spec.reward.rescale or spec.reward.normalize:
        notes.append("estimates are in units of the returns as they were learned, not of the environment's rewards")
    if any(not port.batched for port in step.inputs):
        notes.append(
            "the memory's entries are inputs, one set for the batch: others of these shapes may take their place"
        )
    if spec.observation.normalize:
        notes.append("observations are normalised in the graph, by the statistics of the checkpoint: pass them raw")
    return notes
