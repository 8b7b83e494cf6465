"""A folder with all that a user of another library needs: the ONNX file, weights, memory, an example, and scripts.

| file | what it holds |
|---|---|
| `model.onnx` | the policy |
| `export.json` | what goes in and comes out: see `about.about`; `torch` is the plan of `to_torch.py` |
| `weights.safetensors` | the network's parameters by name |
| `carry.safetensors` | what is carried at an episode's first step, without a batch; if anything is |
| `memory.safetensors` | the external memory's entries, by the names of inputs; if there is one |
| `example.safetensors` | two random observations (`in.NAME`), and what the agent answers (`out.NAME`) |
| `run_onnxruntime.py`, `run.mjs`, `run.html` | act on the example in Python, Node and a browser |
| `to_torch.py` | the weights as a PyTorch module |
"""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save

from engram import trees
from engram.exporting import onnx
from engram.exporting.about import about
from engram.exporting.parity import observed
from engram.exporting.step import Step
from engram.exporting.torch_plan import plan_of
from engram.play.trained import TrainedAgent

TEMPLATES = Path(__file__).parent / "templates"
SCRIPTS = ("run_onnxruntime.py", "run.mjs", "run.html", "to_torch.py")


def contents(agent: TrainedAgent, step: Step, opset: int, seed: int = 0) -> dict[str, bytes]:
    """The files of the folder by name."""
    network = agent.minds[seed].network
    described = about(agent, step, seed)
    found = {"model.onnx": onnx.converted(step, opset, described)}
    found["export.json"] = as_json(described | {"torch": plan_of(agent.plan.agent, network, step)})
    found["weights.safetensors"] = save(trees.copied(network))
    found |= beside(step)
    found["example.safetensors"] = save(example(step))
    return found | {name: (TEMPLATES / f"{name}.txt").read_bytes() for name in SCRIPTS}


def beside(step: Step) -> dict[str, bytes]:
    """What goes into the first step besides the observation: `carry.safetensors`, `memory.safetensors`."""
    batched = {port.name for port in step.inputs if port.batched}
    carried = {name: np.ascontiguousarray(value) for name, value in step.start.items() if name in batched}
    entries = {name: np.ascontiguousarray(value) for name, value in step.start.items() if name not in batched}
    found = {"carry.safetensors": carried, "memory.safetensors": entries}
    return {name: save(arrays) for name, arrays in found.items() if arrays}


def example(step: Step) -> dict[str, np.ndarray]:
    """Two random observations at an episode's first step, and what comes out."""
    given: dict[str, Any] = step.first(2) | observed(step, np.random.default_rng(0), 2)
    found = jax.jit(step.function)(*(given[port.name] for port in step.inputs))
    inputs = {f"in.{port.name}": given[port.name] for port in step.inputs if port.batched}
    outputs = {f"out.{port.name}": np.asarray(value) for port, value in zip(step.outputs, found, strict=True)}
    return {name: np.ascontiguousarray(value) for name, value in (inputs | outputs).items()}


def as_json(value: Any) -> bytes:
    """JSON as a person can read it."""
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()
