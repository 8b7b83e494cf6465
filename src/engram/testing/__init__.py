"""Contracts as functions: `check_*` holds a part of your own to its protocol, and says what it breaks."""

from engram.testing.contracts import ContractFault, check_external, check_working

__all__ = ["ContractFault", "check_external", "check_working"]
