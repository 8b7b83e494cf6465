"""Contracts as functions: `check_*` holds a part of your own to its protocol, and says what it breaks."""

from engram.testing.agents import check_agent
from engram.testing.bootstraps import check_bootstrap
from engram.testing.contracts import ContractFault, check_working
from engram.testing.draws import check_draw
from engram.testing.encoders import check_encoder
from engram.testing.environments import Finding, check_env
from engram.testing.exploration import check_exploration
from engram.testing.external import check_external
from engram.testing.heads import check_head
from engram.testing.losses import check_loss

__all__ = [
    "ContractFault",
    "Finding",
    "check_agent",
    "check_bootstrap",
    "check_draw",
    "check_encoder",
    "check_env",
    "check_exploration",
    "check_external",
    "check_head",
    "check_loss",
    "check_working",
]
