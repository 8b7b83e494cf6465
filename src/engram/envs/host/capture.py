"""Saving an environment in the middle of an episode, and going on from there.

Three levels, decided once for each environment when it is made:

- `exact`: every layer of the environment (wrappers included) is of a class whose changing attributes are registered.
  They and the random generator's state are saved and put back into a fresh instance.
- `replayed`: the class is not known, but a probe found it deterministic. The episode's seed and its actions are
  saved. Restoring resets and plays them again, in time proportional to the episode's length. The observation's SHA-256
  and the sum of rewards must then equal those saved. Memory and saved states grow with the episode (4 bytes an
  action), so register classes with very long episodes.
- `boundary`: neither. Restoring begins the environment's next episode; the rest of the interrupted one is lost.
  An environment is also saved so after a fault, whatever its level.

Nothing is pickled: a state is JSON values and arrays. Worker processes import this file, so it imports no JAX.

For exact capture of a class of your own, name every attribute that `step` or `reset` changes:

>>> class Corridor(gymnasium.Env):
...     def __init__(self, length: int = 10):
...         self.length, self.position = length, 0
>>> register_exact(Corridor, ("position",), constants=("length",))
"""

import hashlib
import sys
from typing import Any

import gymnasium
import numpy as np

from engram.envs.host.episodes import PROBE_SEED, Episodes, Level
from engram.errors import CheckpointError, EngramError, EnvironmentFault, SpecError

_PROBE_STEPS = 20

Registry = dict[str, tuple[tuple[str, ...], tuple[str, ...]]]
Snapshot = tuple[dict[str, Any], dict[str, np.ndarray]]  # JSON values and arrays

# Class name -> (attributes that change, attributes that must agree). By name, so that no class is imported for it.
_CLASSIC = "gymnasium.envs.classic_control"
_TOY = "gymnasium.envs.toy_text"
_KNOWN: Registry = {
    f"{_CLASSIC}.cartpole:CartPoleEnv": (
        ("state", "steps_beyond_terminated"),
        ("gravity", "length", "force_mag", "tau"),
    ),
    f"{_CLASSIC}.mountain_car:MountainCarEnv": (("state",), ("goal_velocity", "force", "gravity")),
    f"{_CLASSIC}.continuous_mountain_car:Continuous_MountainCarEnv": (("state",), ("goal_velocity", "power")),
    f"{_CLASSIC}.pendulum:PendulumEnv": (("state", "last_u"), ("g", "m", "l", "dt")),
    f"{_CLASSIC}.acrobot:AcrobotEnv": (("state",), ("torque_noise_max", "book_or_nips")),
    f"{_TOY}.taxi:TaxiEnv": (
        ("s", "lastaction", "fickle_step", "taxi_orientation"),
        ("rainy_probability", "fickle_passenger", "fickle_probability"),
    ),
    f"{_TOY}.frozen_lake:FrozenLakeEnv": (("s", "lastaction"), ("desc",)),  # desc may be a random map
    f"{_TOY}.cliffwalking:CliffWalkingEnv": (("s", "lastaction"), ("is_slippery",)),
    "gymnasium.wrappers.common:TimeLimit": (("_elapsed_steps",), ("_max_episode_steps",)),
    "gymnasium.wrappers.common:OrderEnforcing": ((), ()),  # restoring begins with a reset, which sets its flag
    "gymnasium.wrappers.common:PassiveEnvChecker": ((), ()),
}
_registered: Registry = dict(_KNOWN)


def register_exact(kind: type, attributes: tuple[str, ...], constants: tuple[str, ...] = ()) -> None:
    """Lets environments (or wrappers) of class `kind` be captured exactly. It does not cover subclasses.

    Args:
      kind: a subclass of gymnasium.Env or gymnasium.Wrapper. Its randomness must come from `self.np_random` alone.
      attributes: names of all attributes that `step` and `reset` change, apart from `np_random`. They hold None,
        numbers, strings, NumPy arrays, or lists, tuples and dicts (string keys) of these.
      constants: names of attributes that differ between instances but stay as built (say, a random map); they are
        compared when restoring, and an instance that differs is refused.
    """
    if not (isinstance(kind, type) and issubclass(kind, gymnasium.Env)):
        raise SpecError(f"register_exact was given {kind!r}; expected a subclass of gymnasium.Env or gymnasium.Wrapper")
    if isinstance(attributes, str) or isinstance(constants, str):
        raise SpecError(
            f"register_exact({kind.__name__}, ...) was given one string; expected a tuple of attribute names"
        )
    _registered[_class_name(kind)] = (tuple(attributes), tuple(constants))


def exact_registry() -> Registry:
    """All registrations so far; sent to worker processes, which then `adopt` them."""
    return dict(_registered)


def adopt(registry: Registry) -> None:
    """Adds another process's registrations."""
    _registered.update(registry)


def choose_level(episodes: Episodes, probed: Level | None = None, alone: bool = True) -> Level:
    """The best level for this environment, before its first episode.

    Args:
      probed: what another instance of it was found to be. Without it, one that is not registered is tried out: the
        same 20 steps at most, twice; `episodes.tried` says so.
      alone: whether no other environment of the run is in this process, to draw from the same global generator.
    """
    if is_registered(episodes.env):
        return "exact"
    if probed in ("replayed", "boundary"):
        return probed
    repeats, steps, shared = tried_out(episodes)
    resets, steps = 2 + episodes.looked[0], steps + episodes.looked[1]
    episodes.tried.append(f"before training the environment was tried out: {resets} resets and {steps} steps")
    draws = f"it draws from {' and '.join(shared)}" if shared else "it draws from a generator that no seed reaches"
    if repeats is False:
        episodes.tried.append(
            f"two episodes from one seed differed, so the run cannot be repeated: {draws}; use self.np_random, which "
            f"reset(seed=seed) seeds"
        )
    elif repeats and shared and not alone:
        repeats = False
        episodes.tried.append(
            f"the run cannot be resumed inside an episode: {draws}, as do the run's other environments; use "
            f"self.np_random, which reset(seed=seed) seeds"
        )
    return "replayed" if repeats else "boundary"


def is_registered(env: gymnasium.Env) -> bool:
    """Whether every layer of an environment is of a class that can be captured exactly."""
    return all(_class_name(type(layer)) in _registered for layer in layers_of(env))


def capture(episodes: Episodes, _: None = None) -> Snapshot:
    """The state of a running environment as (JSON values, arrays), at its level.

    Raises EngramError if an attribute registered for exact capture holds what cannot be saved.
    """
    if episodes.torn or not episodes.observation:
        return at_boundary(episodes.episode)
    parts = zip(episodes.observer.parts, episodes.observation, strict=True)
    arrays = {f"observation.{number}": np.array(value, part.dtype) for number, (part, value) in enumerate(parts)}
    meta: dict[str, Any] = {
        "level": episodes.level,
        "episode": episodes.episode,
        "elapsed": episodes.elapsed,
        "return": episodes.episode_return.hex(),
        "sha256": digest(episodes),
    }
    if episodes.level == "replayed":
        arrays["actions"] = np.array(episodes.history, np.int32)
    elif episodes.level == "exact":
        meta["layers"] = [_capture_layer(layer, depth, arrays) for depth, layer in enumerate(layers_of(episodes.env))]
        meta["generator"] = _pack(episodes.env.unwrapped.np_random.bit_generator.state, "generator", arrays)
    return meta, arrays


def at_boundary(episode: int) -> Snapshot:
    """The state of an environment that can only begin the episode after `episode`."""
    return {"level": "boundary", "episode": episode}, {}


def restore(episodes: Episodes, captured: Snapshot, new_episodes: bool = False) -> tuple[list[np.ndarray], bool]:
    """Puts a captured state into a fresh environment.

    Returns: the arrays of its current observation, and whether a new episode was begun: at level `boundary`, and with
    `new_episodes` also where the state cannot be reached again exactly. Raises CheckpointError there otherwise.
    """
    level = episodes.level
    try:
        _take_up(episodes, *captured)
        anew = captured[0]["level"] == "boundary"
    except CheckpointError:
        if not new_episodes or "episode" not in captured[0]:
            raise
        episodes.level, anew = level, True
        _take_up(episodes, *at_boundary(captured[0]["episode"]))
    return [np.array(value) for value in episodes.observation], anew


def _take_up(episodes: Episodes, meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    try:
        level = meta["level"]
        if level == "boundary":
            episodes.begin(int(meta["episode"]) + 1)
        elif level == "replayed":
            _replay(episodes, meta, arrays)
        elif episodes.level == "exact":
            _restore_exact(episodes, meta, arrays)
        else:
            raise _refusal(
                episodes, "was captured exactly, but a layer of it is not registered with register_exact here"
            )
    except EnvironmentFault as fault:
        raise _refusal(episodes, f"failed while it was restored: {fault}") from fault
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise _refusal(episodes, f"has a damaged or foreign state ({type(error).__name__}: {error})") from error


def digest(episodes: Episodes) -> str:
    """SHA-256 of the current observation: dtype, shape and bytes of every array."""
    total = hashlib.sha256()
    for part, value in zip(episodes.observer.parts, episodes.observation, strict=True):
        total.update(f"{part.dtype}{part.shape}".encode())
        total.update(np.ascontiguousarray(value, part.dtype).tobytes())
    return total.hexdigest()


def tried_out(episodes: Episodes) -> tuple[bool | None, int, list[str]]:
    """Whether the same seed and actions give the same observations, rewards and ends, twice on this instance; how many
    steps that took; and the global generators that it drew from. Where it repeats itself, those are the ones that it
    seeds: what others of the process draw meanwhile does not count.

    None for an environment that fails here. The run will meet the same failure and name it.
    Episodes are seeded by their number, so the probe changes nothing in a run.
    """
    before, seen, begun = global_generators(), [], []
    try:
        for _ in range(2):
            seen.append([])
            begun.append(_probe(episodes, seen[-1]))
        drawn = moved_since(before)
        # A reset that seeds a generator brings it back from where the steps left it.
        (_, first), (stepped, second) = begun
        seeded = [name for name in drawn if stepped.get(name) != first.get(name) == second.get(name)]
        repeats = seen[0] == seen[1]
        return repeats, sum(map(len, seen)) - 2, seeded if repeats else drawn
    except Exception:
        return None, max(sum(map(len, seen)) - len(seen), 0), moved_since(before)
    finally:
        episodes.episode, episodes.elapsed, episodes.episode_return, episodes.observation = -1, 0, 0.0, []
        episodes.torn = False


def _probe(episodes: Episodes, seen: list[Any]) -> tuple[dict[str, str], dict[str, str]]:
    """Adds what the beginning of an episode shows, step by step, to `seen`.

    Returns the global generators before and after its reset.
    """
    before = global_generators()
    actions = np.random.default_rng(PROBE_SEED).integers(episodes.actions, size=_PROBE_STEPS)
    episodes.begin_with(PROBE_SEED)
    seen.append(digest(episodes))
    begun = global_generators()
    for action in actions:
        _, reward, terminated, done = episodes.step(episodes.allowed(int(action)))
        seen.append((digest(episodes), reward.hex(), terminated, done))
        if done:
            break
    return before, begun


def global_generators() -> dict[str, str]:
    """The states of the generators that a whole process shares, in text, by name. Nothing here draws from them."""
    # By name, because the rules of this package let nobody write `np.random.something`, lest it is drawn from.
    states = {"NumPy's global generator (np.random)": vars(np.random)["get_bit_generator"]().state}
    if "random" in sys.modules:  # Python's own, which Engram itself never imports
        states["Python's global generator (random)"] = sys.modules["random"].getstate()
    with np.printoptions(threshold=sys.maxsize):
        return {name: repr(state) for name, state in states.items()}


def moved_since(before: dict[str, str]) -> list[str]:
    """The names of the generators whose state is another than in `before`."""
    return [name for name, state in global_generators().items() if before.get(name, state) != state]


def _replay(episodes: Episodes, meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    episodes.begin(int(meta["episode"]))
    actions = arrays["actions"].tolist()
    if len(actions) != meta["elapsed"]:
        raise _refusal(episodes, f"has {len(actions)} saved actions for {meta['elapsed']} steps")
    episodes.level = "replayed"
    for action in actions:
        _, _, _, done = episodes.step(action)
        if done:
            raise _refusal(
                episodes, f"ended at step {episodes.elapsed} of {len(actions)} when its actions were replayed"
            )
    if digest(episodes) != meta["sha256"] or episodes.episode_return.hex() != meta["return"]:
        raise _refusal(
            episodes,
            f"came to another observation or return when its {len(actions)} actions were replayed from its seed",
        )


def _restore_exact(episodes: Episodes, meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    layers = layers_of(episodes.env)
    here, saved = [_class_name(type(layer)) for layer in layers], [state["class"] for state in meta["layers"]]
    if here != saved:
        raise _refusal(episodes, f"was captured as {' > '.join(saved)} and is {' > '.join(here)} here")
    episodes.begin(int(meta["episode"]))
    for layer, state in zip(layers, meta["layers"], strict=True):
        _check_names(episodes, layer, state)
        _check_constants(episodes, layer, state)
        for name, packed in state["attributes"].items():
            setattr(layer, name, _unpack(packed, arrays))
    generator = episodes.env.unwrapped.np_random.bit_generator
    state = _unpack(meta["generator"], arrays)
    if state["bit_generator"] != generator.state["bit_generator"]:
        raise _refusal(
            episodes, f"draws from {generator.state['bit_generator']}, and was captured with {state['bit_generator']}"
        )
    generator.state = state
    episodes.elapsed = int(meta["elapsed"])
    episodes.episode_return = float.fromhex(meta["return"])
    episodes.observation = [
        _saved_part(episodes, part, arrays[f"observation.{n}"]) for n, part in enumerate(episodes.observer.parts)
    ]
    if digest(episodes) != meta["sha256"]:
        raise _refusal(episodes, "has a saved observation that does not match its SHA-256")


def _saved_part(episodes: Episodes, part: Any, array: np.ndarray) -> np.ndarray:
    if array.shape != part.shape or array.dtype != part.dtype:
        raise _refusal(
            episodes, f"has a saved {part.field} of {array.dtype}{array.shape}, and shows {part.dtype}{part.shape}"
        )
    return array


def _capture_layer(layer: gymnasium.Env, depth: int, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    attributes, constants = _registered[_class_name(type(layer))]
    missing = [name for name in (*attributes, *constants) if not hasattr(layer, name)]
    if missing:
        raise EngramError(f"{type(layer).__name__} has no attribute {missing[0]!r}; mend its register_exact(...)")
    packed = {name: _pack(getattr(layer, name), f"layer{depth}.{name}", arrays) for name in attributes}
    agreed = {name: _constant_digest(getattr(layer, name)) for name in constants}
    return {"class": _class_name(type(layer)), "attributes": packed, "constants": agreed}


def _check_names(episodes: Episodes, layer: gymnasium.Env, state: dict[str, Any]) -> None:
    """Refuses a state that would set, or read, attributes that `register_exact` does not name."""
    known = _registered[_class_name(type(layer))]
    for given, names in zip((state["attributes"], state["constants"]), known, strict=True):
        if wrong := sorted(set(given) ^ set(names)):
            raise _refusal(
                episodes, f"was captured with other attributes of {type(layer).__name__} than here ({wrong[0]!r})"
            )


def _check_constants(episodes: Episodes, layer: gymnasium.Env, state: dict[str, Any]) -> None:
    for name, saved in state["constants"].items():
        if _constant_digest(getattr(layer, name)) != saved:
            raise _refusal(episodes, f"was captured with another {type(layer).__name__}.{name} than it has here")


def _constant_digest(value: Any) -> str:
    array = np.asarray(value)
    content = array.tobytes() if array.dtype != object else repr(value).encode()
    return hashlib.sha256(f"{array.dtype.kind}{array.shape}".encode() + content).hexdigest()


def _pack(value: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    """`value` as JSON, its arrays put into `arrays` under names that begin with `name`. `_unpack` gives it back."""
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return {"float": value.hex()}
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf":
        arrays[name] = np.array(value)
        return {"array" if isinstance(value, np.ndarray) else "scalar": name}
    if isinstance(value, list | tuple) and type(value) in (list, tuple):  # not a named tuple: its class would be lost
        return {type(value).__name__: [_pack(item, f"{name}.{n}", arrays) for n, item in enumerate(value)]}
    if type(value) is dict and all(type(key) is str for key in value):
        return {"dict": {key: _pack(item, f"{name}.{key}", arrays) for key, item in value.items()}}
    raise EngramError(
        f"{name} holds a {type(value).__name__}, which exact capture cannot save; expected None, numbers, strings, "
        f"arrays, or lists, tuples and dicts of these: leave its class out of register_exact"
    )


def _unpack(packed: Any, arrays: dict[str, np.ndarray]) -> Any:
    if not isinstance(packed, dict):
        return packed
    ((kind, content),) = packed.items()
    match kind:
        case "float":
            return float.fromhex(content)
        case "array":
            return np.array(arrays[content])
        case "scalar":
            return arrays[content][()]
        case "list":
            return [_unpack(item, arrays) for item in content]
        case "tuple":
            return tuple(_unpack(item, arrays) for item in content)
        case "dict":
            return {key: _unpack(item, arrays) for key, item in content.items()}
    raise KeyError(kind)


def layers_of(env: gymnasium.Env) -> list[gymnasium.Env]:
    """The environment and what it wraps, outermost first."""
    layers = [env]
    while isinstance(layers[-1], gymnasium.Wrapper):
        layers.append(layers[-1].env)
    return layers


def _class_name(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _refusal(episodes: Episodes, problem: str) -> CheckpointError:
    spec = episodes.env.unwrapped.spec
    name = spec.id if spec is not None else type(episodes.env.unwrapped).__name__
    return CheckpointError(
        f"environment {episodes.index} ({name}) {problem}; resume with new_episodes=True (--new-episodes) to begin a "
        f"new episode there, or start the run again"
    )
