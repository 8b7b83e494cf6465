"""Engram: deep Q-learning with attention and memory, fast on a laptop, exactly resumable, explainable.

>>> import engram
>>> trainer = engram.Trainer("CartPole-v1", run="runs/mine")
>>> trainer.learn(50_000).evaluate(episodes=20).mean
>>> engram.load("runs/mine").predict(observation)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engram.agents.presets import preset
    from engram.agents.spec import AgentSpec
    from engram.comparison.compare import Comparison, compare
    from engram.envs.adapters.gymnax_style import register_gymnax_style
    from engram.envs.device import check_device_env, register_device
    from engram.envs.host.make import register_exact
    from engram.errors import EngramError
    from engram.explaining.explanation import Explanation, explain
    from engram.exporting.export import Exported, export
    from engram.external.memory import Entries
    from engram.heads.head import scalar
    from engram.losses.bootstrap import Following, Similar
    from engram.losses.returns import NStep
    from engram.play.evaluation import Evaluation
    from engram.registry import register
    from engram.replay.draw import Drawn, Reach
    from engram.replay.ring import Ring
    from engram.run.article import AttentionDQN, ReplayBuffer, train
    from engram.run.callbacks import Callback, EarlyStop, Evaluate, TimeLimit
    from engram.run.loggers import CsvLogger, LoggedRun, Logger, MLflowLogger, WandbLogger
    from engram.run.trainer import Trainer, info, load
    from engram.run.video import RecordVideo
    from engram.serving.server import serve
    from engram.sharing.hub import pull, push
    from engram.sharing.packing import pack
    from engram.specs import part, setting, spec
    from engram.testing.environments import check_env
    from engram.tuning.result import Tuned
    from engram.tuning.tune import tune
    from engram.types import Decision, Distribution, Encoding, MemoryRead, Returns

__all__ = [
    "AgentSpec",
    "AttentionDQN",
    "Callback",
    "Comparison",
    "CsvLogger",
    "Decision",
    "Distribution",
    "Drawn",
    "EarlyStop",
    "Encoding",
    "EngramError",
    "Entries",
    "Evaluate",
    "Evaluation",
    "Explanation",
    "Exported",
    "Following",
    "LoggedRun",
    "Logger",
    "MLflowLogger",
    "MemoryRead",
    "NStep",
    "Reach",
    "RecordVideo",
    "ReplayBuffer",
    "Returns",
    "Ring",
    "Similar",
    "TimeLimit",
    "Trainer",
    "Tuned",
    "WandbLogger",
    "check_device_env",
    "check_env",
    "compare",
    "explain",
    "export",
    "info",
    "load",
    "pack",
    "part",
    "preset",
    "pull",
    "push",
    "register",
    "register_device",
    "register_exact",
    "register_gymnax_style",
    "scalar",
    "serve",
    "setting",
    "spec",
    "train",
    "tune",
]

_HOMES = {
    "AgentSpec": "agents.spec",
    "AttentionDQN": "run.article",
    "Callback": "run.callbacks",
    "Comparison": "comparison.compare",
    "CsvLogger": "run.loggers",
    "Decision": "types",
    "Distribution": "types",
    "Drawn": "replay.draw",
    "EarlyStop": "run.callbacks",
    "Encoding": "types",
    "EngramError": "errors",
    "Entries": "external.memory",
    "Evaluate": "run.callbacks",
    "Evaluation": "play.evaluation",
    "Explanation": "explaining.explanation",
    "Exported": "exporting.export",
    "Following": "losses.bootstrap",
    "LoggedRun": "run.loggers",
    "Logger": "run.loggers",
    "MLflowLogger": "run.loggers",
    "MemoryRead": "types",
    "NStep": "losses.returns",
    "Reach": "replay.draw",
    "RecordVideo": "run.video",
    "ReplayBuffer": "run.article",
    "Returns": "types",
    "Ring": "replay.ring",
    "Similar": "losses.bootstrap",
    "TimeLimit": "run.callbacks",
    "Trainer": "run.trainer",
    "Tuned": "tuning.result",
    "WandbLogger": "run.loggers",
    "check_device_env": "envs.device",
    "check_env": "testing.environments",
    "compare": "comparison.compare",
    "explain": "explaining.explanation",
    "export": "exporting.export",
    "info": "run.trainer",
    "load": "run.trainer",
    "pack": "sharing.packing",
    "part": "specs",
    "preset": "agents.presets",
    "pull": "sharing.hub",
    "push": "sharing.hub",
    "register": "registry",
    "register_device": "envs.device",
    "register_exact": "envs.host.make",
    "register_gymnax_style": "envs.adapters.gymnax_style",
    "scalar": "heads.head",
    "serve": "serving.server",
    "setting": "specs",
    "spec": "specs",
    "train": "run.article",
    "tune": "tuning.tune",
}


def __getattr__(name: str) -> Any:
    """Loads a public name at its first use: help, and the processes of environments, need no JAX."""
    if name not in _HOMES:
        raise AttributeError(f"module 'engram' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"engram.{_HOMES[name]}"), name)
