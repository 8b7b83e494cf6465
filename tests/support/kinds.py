"""The kinds of parts that the package has, whatever else tests have registered."""

from engram import registry


def own(role: str) -> list[str]:
    """The names of Engram's own parts of a role: a file of tests collected before may have put its own beside them."""
    return [name for name in registry.names(role) if registry.find(role, name).__module__.startswith("engram.")]
