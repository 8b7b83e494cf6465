"""Pong as every peer plays it: sticky actions, 84x84 grey, four frames per agent step, four steps stacked."""
# pyright: reportMissingImports=false

import ale_py
import gymnasium

gymnasium.register_envs(ale_py)


def make_pong() -> gymnasium.Env:
    """One environment; observations are uint8 of shape (4, 84, 84)."""
    raw = gymnasium.make("ALE/Pong-v5", frameskip=1, repeat_action_probability=0.25)
    return gymnasium.wrappers.FrameStackObservation(gymnasium.wrappers.AtariPreprocessing(raw, frame_skip=4), 4)
