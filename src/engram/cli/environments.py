"""What each environment is, in a line and at length, without JAX and, for a list, without Gymnasium.

Device environments say it in their docstrings. The ids and arguments of Gymnasium's own environments and of the extras
stand in `environments.json`, with the version of each package. If another version is installed, the package itself is
asked, which takes seconds. `python -m engram.cli.environments` writes the file anew.
"""

import inspect
import json
import re
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Any

from engram.cli.blank import without_jax
from engram.errors import UnknownName, hint

FILE = Path(__file__).with_name("environments.json")
GYMNASIUM = "gymnasium"
PACKAGES = (
    GYMNASIUM,
    "ale-py",
    "minigrid",
    "popgym",
    "highway-env",
    "gymnasium-robotics",
    "textworld",
)  # whose ids the file holds, if installed
MOST = 5  # arguments in a line; `engram show env ID` prints all
PLUGINS = "gymnasium.envs"  # entry points by which further packages bring ids of their own

# What a Gymnasium environment is, by the name in its id.
LINES = {
    "Acrobot": "swing the free end of two linked bars above a line",
    "Ant": "walk with four legs (MuJoCo, continuous actions)",
    "BipedalWalker": "walk on two legs over uneven ground (Box2D, continuous actions)",
    "BipedalWalkerHardcore": "walk on two legs over stumps and pits (Box2D, continuous actions)",
    "Blackjack": "play blackjack against a dealer",
    "CarRacing": "drive a lap on a track seen from above (Box2D, images)",
    "CartPole": "balance a pole on a cart",
    "CliffWalking": "walk along a cliff without falling",
    "CliffWalkingSlippery": "walk along a slippery cliff without falling",
    "FrozenLake": "cross a frozen lake without falling into a hole",
    "FrozenLake8x8": "cross a frozen lake of 8 x 8 fields",
    "HalfCheetah": "run with two legs in a plane (MuJoCo, continuous actions)",
    "Hopper": "hop on one leg in a plane (MuJoCo, continuous actions)",
    "Humanoid": "walk like a human (MuJoCo, continuous actions)",
    "HumanoidStandup": "stand up from lying (MuJoCo, continuous actions)",
    "InvertedDoublePendulum": "balance two linked poles on a cart (MuJoCo, continuous actions)",
    "InvertedPendulum": "balance a pole on a cart (MuJoCo, continuous actions)",
    "LunarLander": "land between two flags with three engines (Box2D)",
    "LunarLanderContinuous": "land between two flags (Box2D, continuous actions)",
    "MountainCar": "rock a weak car up a hill",
    "MountainCarContinuous": "rock a weak car up a hill (continuous actions)",
    "Pendulum": "swing a pendulum up and hold it there (continuous actions)",
    "Pusher": "push a cylinder to a goal with an arm (MuJoCo, continuous actions)",
    "Reacher": "reach a point with a jointed arm (MuJoCo, continuous actions)",
    "Swimmer": "swim with three links (MuJoCo, continuous actions)",
    "Taxi": "pick a passenger up and bring him to his hotel",
    "Walker2d": "walk on two legs in a plane (MuJoCo, continuous actions)",
}
# The same for families, by what an id begins with, and the package that brings them; the first that fits.
FAMILIES = (
    (r"ALE/.*-ram", "ale-py", "an Atari game, seen as 128 bytes of memory"),
    (r"ALE/", "ale-py", "an Atari game, seen as grey frames of 84 x 84"),
    (r".*NoFrameskip-v|.*Deterministic-v", "ale-py", "an Atari game under its old name"),
    (r"phys2d/|tabular/", GYMNASIUM, "Gymnasium's own port to JAX, one environment at a time"),
    (r"MiniGrid-Memory", "minigrid", "find the object that was shown at the start, among two (MiniGrid)"),
    (r"MiniGrid-|BabyAI-", "minigrid", "a task in a grid world, seen as a board of planes"),
    (r"popgym-", "popgym", "a task of POPGym, which needs memory"),
    (r"intersection-|highway-|merge-|roundabout-", "highway-env", "driving (highway-env)"),
    (r"Fetch|HandReach|HandManipulate", "gymnasium-robotics", "an arm or a hand with a goal (MuJoCo)"),
    (r"PointMaze_|AntMaze_|AdroitHand|FrankaKitchen", "gymnasium-robotics", "a task of Gymnasium-Robotics (MuJoCo)"),
    (r"envpool/", "envpool", "a task of EnvPool, in C++"),
    (r"textworld/Coin", "textworld", "find a coin at the end of a chain of rooms, by text (TextWorld)"),
    (r"textworld/", "textworld", "cook a meal by the cookbook, by text (TextWorld)"),
    (r"GymV\d+Environment", GYMNASIUM, "an environment of the old gym, for its porting"),
)


def environment_rows() -> list[tuple[str, str]]:
    """Every environment that can be made here: its id, where it runs, what it is, and its arguments."""
    rows = [(name, _joined("device", line, arguments)) for name, (line, arguments) in without_jax(device_lines).items()]
    hosts = host_arguments()
    return rows + [(name, _joined("host", host_line(name), hosts[name])) for name in sorted(hosts)]


def _joined(where: str, line: str, arguments: Mapping[str, Any]) -> str:
    told = [name if value == "" else f"{name}={_word(value)}" for name, value in arguments.items()]
    listed = ", ".join(told[:MOST] + ["..."] * (len(told) > MOST))
    return f"{where}:" + (f" {line}" if line else "") + (f" [{listed}]" if listed else "")


def _word(value: Any) -> str:
    """A value as `--env-arg` reads it."""
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


# -- on the device ---------------------------------------------------------------------------------------------------


def device_lines() -> dict[str, tuple[str, dict[str, Any]]]:
    """Each device id with a line and its arguments with their defaults; "" for one that must be given."""
    from engram.envs.device import catalogue

    return {name: (_sentence(about.doc), about.defaults) for name, about in catalogue().items()}


def _sentence(doc: str) -> str:
    """The first sentence of a docstring, as part of a line."""
    first = " ".join(doc.strip().partition("\n\n")[0].split()).partition(". ")[0].rstrip(".:")
    return first[:1].lower() + first[1:] if first.partition(" ")[0][1:].islower() else first


# -- on the host -----------------------------------------------------------------------------------------------------


def host_line(name: str) -> str:
    """What a host environment is, in a few words; empty if nobody says."""
    for pattern, _, line in FAMILIES:
        if re.match(pattern, name):
            return line
    family = re.sub(r"-v\d+$", "", name)
    if family not in LINES and f"ALE/{family.removesuffix('-ram')}-v5" in host_arguments():
        return "an Atari game under its old name" + (", seen as 128 bytes of memory" if family.endswith("-ram") else "")
    return LINES.get(family, "")


def host_arguments() -> dict[str, dict[str, Any]]:
    """Every host id that can be made here, with its arguments as far as they are known."""
    stored = _stored()
    if not _all_known(stored):
        known = {name: one for package in stored for name, one in _ids(stored, package)}
        from engram.envs.host.build import ids

        return {name: known.get(name, {}) for name in ids()}
    return {name: one for package in stored if _version(package) is not None for name, one in _ids(stored, package)}


def _stored() -> dict[str, Any]:
    """The file: by package its version, and groups of ids that take the same arguments."""
    return json.loads(FILE.read_text())


def _ids(stored: Mapping[str, Any], package: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for group in stored[package]["groups"]:
        yield from ((name, group["arguments"]) for name in group["ids"])


def _all_known(stored: Mapping[str, Any]) -> bool:
    """Whether the file speaks of every package that brings ids here, and of the version installed."""
    installed = {package: found for package in PACKAGES if (found := _version(package)) is not None}
    return not entry_points(group=PLUGINS) and all(
        package in stored and stored[package]["version"] == found for package, found in installed.items()
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


# -- at length -------------------------------------------------------------------------------------------------------


def observed(name: str, env_args: Mapping[str, Any], action_bins: int | None) -> dict[str, Any]:
    """The space of an environment's observations, as JSON values."""
    from_device = without_jax(lambda: _on_device(name, env_args))
    return from_device["space"] if from_device else _on_host(name, env_args, action_bins)["space"]


def about_environment(name: str, env_args: Mapping[str, Any], action_bins: int | None) -> list[tuple[str, str]]:
    """What `engram show env ID` prints: facts by name, then lines without one."""
    device = without_jax(lambda: _on_device(name, env_args))
    found = device or _on_host(name, env_args, action_bins)
    line, arguments = found["line"], found["arguments"]
    facts = [
        (name, f"{'device (JAX)' if device else 'host (Gymnasium)'}: {line}" if line else ""),
        ("observation", found["observation"]),
        ("actions", found["actions"]),
    ]
    told = (f"--env-arg {key}={_word(value)}" if value != "" else key for key, value in arguments.items())
    facts += [("argument", text) for text in told]
    return [*facts, ("train", f"engram train {name}"), *(("", text) for text in found["more"])]


def _on_device(name: str, env_args: Mapping[str, Any]) -> dict[str, Any] | None:
    """Facts about a device environment; None if it is none."""
    from engram import spaces
    from engram.envs.device import about_of, make_device

    about = about_of(name)
    if about is None:
        return None
    env = make_device(name, **env_args)
    space = env.observation_space
    return {
        "line": _sentence(about.doc),
        "arguments": about.defaults | dict(env_args),
        "space": spaces.to_json(space),
        "observation": str(space),
        "actions": f"{env.actions} discrete",
        "more": ["", *about.doc.splitlines()],
    }


def _on_host(name: str, env_args: Mapping[str, Any], action_bins: int | None) -> dict[str, Any]:
    """Facts about a host environment, of which one is made."""
    check_environment(name)
    from engram import spaces
    from engram.envs.host.build import builder_of

    builder = builder_of(name, dict(env_args))
    env = builder()
    try:
        space, actions = _spaces_of(env, action_bins)
    finally:
        env.close()
    return {
        "line": host_line(name),
        "arguments": host_arguments().get(name, {}) | dict(env_args),
        "space": spaces.to_json(space),
        "observation": str(space),
        "actions": actions,
        "more": [builder.description] if builder.description != name else [],
    }


def _spaces_of(env: Any, action_bins: int | None) -> tuple[Any, str]:
    """The space of its observations, and its actions in words, also where they need `--action-bins`."""
    from engram.envs.host.episodes import Episodes
    from engram.envs.host.spaces import Observer
    from engram.errors import SpaceError

    try:
        episodes = Episodes(env, index=0, seed=0, action_bins=action_bins)
    except SpaceError as problem:
        if action_bins is not None:
            raise
        return Observer(env.observation_space).space, str(problem)
    told = str(env.action_space)
    return episodes.observer.space, told if told.startswith("Discrete") else f"{episodes.actions} discrete ({told})"


def _registered(name: str) -> bool:
    """Whether a module that was imported, such as one of `--import`, has told Gymnasium of this id."""
    gymnasium = sys.modules.get("gymnasium")
    return gymnasium is not None and name in gymnasium.registry


def check_environment(name: str) -> None:
    """Raises UnknownName, with the nearest of all ids, for one that cannot be known here; sooner than JAX could.

    What may be known all the same, to a package that is not asked here, passes.
    """
    stored = _stored()
    if ":" in name or not _all_known(stored) or name in (hosts := host_arguments()) or _registered(name):
        return
    package = next((package for pattern, package, _ in FAMILIES if re.match(pattern, name)), GYMNASIUM)
    if package == "envpool" or _version(package) is None:  # what to install is said when it is made
        return
    known = sorted({*hosts, *without_jax(device_lines)})
    if name in known:
        return
    listed = f"there are {len(known)}, such as 'CartPole-v1'; `engram list envs TEXT` shows those with a text"
    way_out = hint(name, known, listed)
    raise UnknownName(f"no environment is called {name!r}; {way_out}")


# -- writing the file ------------------------------------------------------------------------------------------------


def gather() -> dict[str, Any]:
    """What `environments.json` holds, from the packages that are installed."""
    import gymnasium

    from engram.envs.adapters import atari
    from engram.envs.host.build import ids

    found: dict[str, Any] = {}
    for name in ids():
        spec = gymnasium.registry[name]
        package = found.setdefault(_package_of(spec.entry_point), {})
        arguments = atari.defaults(spec) if atari.is_atari(spec) else dict(_arguments(spec))
        package.setdefault(json.dumps(arguments), []).append(name)
    return {
        package: {
            "version": _version(package),
            "groups": [{"arguments": json.loads(arguments), "ids": names} for arguments, names in groups.items()],
        }
        for package, groups in sorted(found.items())
    }


def _package_of(entry_point: Any) -> str:
    module = entry_point if isinstance(entry_point, str) else entry_point.__module__
    if module.startswith("engram.envs.textgames."):
        return "textworld"
    root = module.partition(":")[0].partition(".")[0]
    return {"ale_py": "ale-py", "highway_env": "highway-env", "gymnasium_robotics": "gymnasium-robotics"}.get(
        root, root
    )


def _arguments(spec: Any) -> Iterator[tuple[str, Any]]:
    """Arguments with their defaults, as far as JSON can hold them; what the id itself decides has its value."""
    from gymnasium.envs.registration import load_env_creator

    try:
        creator = load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
        parameters = inspect.signature(creator).parameters.values()
    except Exception:  # what it needs is not installed, or its signature cannot be read
        return
    for one in parameters:
        if one.kind in (one.VAR_KEYWORD, one.VAR_POSITIONAL) or one.name in ("render_mode", "self"):
            continue
        value = spec.kwargs.get(one.name, "" if one.default is one.empty else one.default)
        if isinstance(value, str | int | float | bool | None):
            yield one.name, value


if __name__ == "__main__":
    FILE.write_text(json.dumps(gather(), indent=1) + "\n")
