"""Atari 2600 games, with the preprocessing of the field stated in one place.

An action is repeated for `frame_skip` frames; the last two are pooled by maximum, turned grey and scaled to 84x84
(gymnasium's AtariPreprocessing). Each frame ignores the new action with probability `sticky` (Machado et al. 2018,
arXiv 1709.06009). An episode begins with 1 to `noop_max` frames of doing nothing. Both draw from the episode's seed.
One frame is an observation; stacking frames and clipping rewards are the agent's.

ale-py is imported only here, and only when a game is asked for.
"""

from importlib import import_module
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec
from gymnasium.wrappers import AtariPreprocessing, TimeLimit

from engram.envs.adapters.adapter import Adapter
from engram.errors import SpecError, hint

_ENTRY_POINT = "ale_py.env:AtariEnv"
_DEFAULTS: dict[str, Any] = {"life_loss": False, "noop_max": 30, "frame_skip": 4, "screen_size": 84}
_PASSED_ON = (
    "mode",
    "difficulty",
    "full_action_space",
    "max_num_frames_per_episode",
    "max_episode_steps",
    "render_mode",
)


def register_games() -> None:
    """Makes the ids of ale-py known to Gymnasium."""
    gymnasium.register_envs(import_module("ale_py"))


def is_atari(spec: EnvSpec) -> bool:
    """Whether the id is a game seen as pixels; RAM observations are an ordinary environment."""
    return spec.entry_point == _ENTRY_POINT and spec.kwargs.get("obs_type", "rgb") != "ram"


def describe(spec: EnvSpec, env_args: dict[str, Any]) -> str:
    """The preprocessing that `make_atari` applies, in words. Raises SpecError for a wrong argument."""
    settings = _settings(spec, env_args)
    rest = {name: value for name, value in env_args.items() if name in _PASSED_ON}
    life = (
        "each lost life ends the episode and restarts the game" if settings["life_loss"] else "a lost life ends nothing"
    )
    return (
        f"{spec.id}: each action for {settings['frame_skip']} frames, the last two pooled by maximum, grey, "
        f"{settings['screen_size']}x{settings['screen_size']}; sticky actions {settings['sticky']}; up to "
        f"{settings['noop_max']} no-op frames at the start; {life}; one frame per observation and raw rewards "
        f"(stacking and clipping are the agent's){f'; {rest}' if rest else ''}"
    )


def make_atari(spec: EnvSpec, env_args: dict[str, Any]) -> gymnasium.Env:
    """One game, preprocessed as the module says.

    Args:
      env_args: `sticky` (probability that a frame repeats the previous action; by default what the id stands for:
        0.25 for ALE/*-v5 and *-v0, 0 for *-v4), `life_loss` (end the episode at each lost life; the next one restarts
        the game), `noop_max`, `frame_skip`, `screen_size` (pixels), and ALE's own mode, difficulty,
        full_action_space, max_num_frames_per_episode (in frames); max_episode_steps is in steps of the agent.

    Raises SpecError for another argument or an impossible value.
    """
    settings = _settings(spec, env_args)
    passed_on = {name: value for name, value in env_args.items() if name in _PASSED_ON}
    limit = passed_on.pop("max_episode_steps", None)  # of the agent's steps, not of frames
    env = gymnasium.make(
        spec, disable_env_checker=True, frameskip=1, repeat_action_probability=float(settings["sticky"]), **passed_on
    )
    env = AtariPreprocessing(
        env,
        noop_max=settings["noop_max"],
        frame_skip=settings["frame_skip"],
        screen_size=settings["screen_size"],
        terminal_on_life_loss=bool(settings["life_loss"]),
    )
    return env if limit is None else TimeLimit(env, limit)


def defaults(spec: EnvSpec) -> dict[str, Any]:
    """The arguments of `make_atari` with what they are for this id unless given."""
    return {"sticky": spec.kwargs.get("repeat_action_probability", 0.25), **_DEFAULTS}


def reward_clip(_: gymnasium.Env) -> float:
    """1, by which games whose scores differ a hundredfold share their settings (Mnih et al. 2015, Methods)."""
    return 1.0


def _settings(spec: EnvSpec, env_args: dict[str, Any]) -> dict[str, Any]:
    settings = defaults(spec)
    for name, value in env_args.items():
        if name in settings:
            settings[name] = value
        elif name not in _PASSED_ON:
            raise SpecError(f"{spec.id} has no argument {name!r}; {hint(name, [*settings, *_PASSED_ON])}")
    sticky = settings["sticky"]
    if isinstance(sticky, bool) or not isinstance(sticky, int | float) or not 0 <= sticky <= 1:
        raise SpecError(f"{spec.id} was given sticky = {sticky!r}; expected a probability in 0..1")
    if not isinstance(settings["life_loss"], bool):
        raise SpecError(f"{spec.id} was given life_loss = {settings['life_loss']!r}; expected true or false")
    for name, least in (("noop_max", 0), ("frame_skip", 1), ("screen_size", 1)):
        value = settings[name]
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise SpecError(f"{spec.id} was given {name} = {value!r}; expected an integer of at least {least}")
    return settings


ADAPTER = Adapter(
    ("ALE/",),
    within=("NoFrameskip-v",),  # ids of the old gym
    module="ale_py",
    extra="atari",
    by_hand=register_games,
    prepares=is_atari,
    make=make_atari,
    describe=describe,
    reward_clip=reward_clip,
)
