"""The model card of a shared folder: what the agent is, how well it plays, what it is for and what it is not for.

The head is YAML as hubs read it: https://huggingface.co/docs/hub/model-cards. Texts stand in it as JSON strings, which
YAML reads too.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from engram.explaining.explanation import PARTS
from engram.play.trained import TrainedAgent
from engram.registry import name_of
from engram.run import packed

LIBRARY = "engram-rl"
SAID = {
    packed.CONFIG: "the agent's settings, and the digests of all other files",
    packed.MODEL: "the networks",
    packed.MEMORY: "the external memory",
    packed.ENTRIES: "what the entries of that memory are",
    packed.ENV: "the environment: id, arguments, observations, actions",
    packed.EVALUATION: "returns and lengths of the episodes below",
    packed.FILM: "one of these episodes, with what the agent saw, estimated and attended to",
    packed.PAGE: "the same episode explained step by step",
    packed.ONNX: "the policy for ONNX runtimes",
}


def card(
    agent: TrainedAgent,
    step: int,
    played: Mapping[str, Any],
    env: Mapping[str, Any],
    licence: str | None,
    files: Sequence[str],
) -> str:
    """The whole text of README.md."""
    name = f"{agent.plan.preset}-{env['env']}"
    sections = [
        _head(agent, name, played, env, licence),
        f"# {_plain(name)}\n\n{_what(agent, env)}",
        f"## Results\n\n{_results(played)}",
        f"## Use\n\n{_use(played)}",
        f"## Intended use\n\n{_intended(env)}",
        f"## Limits\n\n{_limits(agent, played, files)}",
        f"## How it was trained\n\n{_training(agent, step, played)}",
        f"## Files\n\n{_files(files)}",
        f"## Licence\n\n{_licence(licence)}",
    ]
    return "\n\n".join(sections) + "\n"


def _head(
    agent: TrainedAgent, name: str, played: Mapping[str, Any], env: Mapping[str, Any], licence: str | None
) -> str:
    world = str(env["env"])
    metrics = [("mean_reward", f"{played['mean']:.2f} +/- {played['std']:.2f}", "mean return and standard deviation")]
    if played["success_rate"] is not None:
        metrics.append(("success_rate", f"{played['success_rate']:.3f}", "share of episodes that met their goal"))
    lines = ["---", f"library_name: {LIBRARY}"]
    lines += [f"license: {licence}"] if licence else []
    lines += ["pipeline_tag: reinforcement-learning", "tags:"]
    tags = dict.fromkeys(("reinforcement-learning", "deep-reinforcement-learning", "engram", agent.plan.preset, world))
    lines += [f"- {json.dumps(tag)}" for tag in tags]
    lines += ["model-index:", f"- name: {json.dumps(name)}", "  results:"]
    lines += ["  - task:", "      type: reinforcement-learning", "      name: reinforcement-learning"]
    lines += ["    dataset:", f"      name: {json.dumps(world)}", f"      type: {json.dumps(world)}", "    metrics:"]
    for kind, value, told in metrics:
        lines += [f"    - type: {kind}", f"      value: {json.dumps(value)}", f"      name: {json.dumps(told)}"]
        lines += ["      verified: false"]
    return "\n".join([*lines, "---"])


def _what(agent: TrainedAgent, env: Mapping[str, Any]) -> str:
    spec: Any = agent.plan.agent
    made_of = ", ".join(f"{role} `{name_of(role, type(getattr(spec, role)))}`" for role in PARTS)
    several = f" It holds {len(agent.minds)} agents, one for each seed." if len(agent.minds) > 1 else ""
    return (
        f"An agent of Engram, a library for deep Q-learning with attention and memory. It plays {_code(env['env'])}: "
        f"preset {_code(agent.plan.preset)}, {made_of}.{several}"
    )


def _results(played: Mapping[str, Any]) -> str:
    low, high = played["interval_95"]
    reach = f"{low:.2f} to {high:.2f}" if low is not None else "unknown of one episode"
    rows = [
        ("mean return", f"{played['mean']:.2f}"),
        ("95 % interval of the mean", reach),
        ("standard deviation", f"{played['std']:.2f}"),
        ("least, greatest", f"{min(played['returns']):.2f}, {max(played['returns']):.2f}"),
        ("mean length of an episode", f"{sum(played['lengths']) / len(played['lengths']):.1f} steps"),
        ("episodes", f"{played['episodes']}, greedy"),
    ]
    if played["success_rate"] is not None:
        rows.insert(1, ("episodes that met their goal", f"{played['success_rate']:.1%}"))
    if played["cut"]:
        rows.append(("cut off by a limit on steps", str(played["cut"])))
    table = "\n".join(["| what | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])
    return (
        f"{table}\n\nMeasured on {played['date']} on seeds that neither training nor an earlier evaluation used. The "
        f"interval is by Student's t over episodes. Other seeds of training are not in it."
    )


def _use(played: Mapping[str, Any]) -> str:
    return (
        '```python\nimport engram\n\nengram.pull(REPO, "agent")  # where this page is, such as "somebody/cartpole"\n'
        'agent = engram.load("agent")\naction, state = agent.predict(observation)\n```\n\n'
        f"The same episodes again: `engram evaluate agent --seed {played['seed']} --episodes "
        f"{played['episodes'] // played['agents']}`."
    )


def _intended(env: Mapping[str, Any]) -> str:
    return (
        f"To play {_code(env['env'])}, to be compared with, and to be explained. It chooses among "
        f"{env['actions']} actions by observations as env.json describes them."
    )


def _limits(agent: TrainedAgent, played: Mapping[str, Any], files: Sequence[str]) -> str:
    lines = [
        "It was tested in the environment of env.json and in no other. Do not let it act where an error does harm.",
        f"The result is that of {_number(len(agent.minds), 'trained agent')}; training again with another seed may "
        f"give another one.",
    ]
    if played["cut"]:
        lines.append(
            f"{played['cut']} episodes had not ended when they were cut off; their returns count as they were."
        )
    if packed.MEMORY in files:
        lines.append(
            "memory.safetensors holds experience of training: observations, or keys made of them, actions and returns. "
            "memory.json says which entries."
        )
    return "\n".join(f"- {line}" for line in lines)


def _training(agent: TrainedAgent, step: int, played: Mapping[str, Any]) -> str:
    plan: Any = agent.plan
    rows = [
        ("steps", f"{step:,} of {plan.steps:,}"),
        ("environments at a time", str(plan.envs)),
        ("seed", str(plan.seed) if len(agent.minds) == 1 else f"{plan.seed} to {plan.seed + len(agent.minds) - 1}"),
        ("discount", f"{plan.agent.discount:g}"),
    ]
    rows += [("recipe", _code(plan.recipe))] if plan.recipe else []
    rows += [("demonstrations", f"{plan.demonstration_rows:,} rows")] if plan.demonstration_rows else []
    rows += [("began from", "the weights of another run")] if plan.start_from else []
    rows.append(("versions", ", ".join(f"{name} {number}" for name, number in played["versions"].items())))
    table = "\n".join(["| what | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])
    return f"{table}\n\nEvery setting stands in config.json, under `plan`."


def _files(files: Sequence[str]) -> str:
    names = [packed.CONFIG, *files]
    table = "\n".join(["| file | what it holds |", "|---|---|", *(f"| {name} | {SAID[name]} |" for name in names)])
    return f"{table}\n\n`engram.load` reads these files alone, checks every digest first, and runs no code of theirs."


def _licence(licence: str | None) -> str:
    if licence:
        return f"`{licence}`"
    return "None was given. Ask whoever published this before you use it."


def _number(count: int, what: str) -> str:
    return f"one {what}" if count == 1 else f"{count} {what}s"


def _plain(text: Any) -> str:
    """A name without what Markdown or a terminal would take for more than letters."""
    return re.sub(r"[^\w./:+ -]", "_", str(text))


def _code(text: Any) -> str:
    return f"`{_plain(text)}`"
