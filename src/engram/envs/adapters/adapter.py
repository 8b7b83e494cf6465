"""What a family of environments declares, so that nothing else has to know it: an `Adapter`, listed in `families.py`.

An adapter is a value. One that only says what its ids begin with, and which package and extra they need, is complete:
importing the package registers its ids, and Gymnasium makes its environments. A family that needs more replaces the
functions for that.

Worker processes import this file, so it imports no JAX; and no family's package, which may not be installed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol, runtime_checkable

import gymnasium
from gymnasium.envs.registration import EnvSpec

from engram.envs.adapters import plain


def _nothing(env_id: str) -> None:
    """Every id of the family is registered already."""


def _as_paid(_: gymnasium.Env) -> float:
    """Rewards are learned from as they are."""
    return 0.0


@dataclass(frozen=True)
class Adapter:
    """One family of environments.

    Fields:
      prefixes: what the family's ids begin with. within: what its other ids contain.
      module: the package that plays them. extra: Engram's extra that installs it.
      by_hand: makes the family's ids known to Gymnasium; None where importing `module` does so.
      register_id: makes one id known that `by_hand` left out.
      prepares: whether `make` and `describe` are for this registered environment; None: for all ids of the family.
      make: the environment, prepared as `describe` says, from its spec and the arguments that a user gave.
      describe: the same in words. Raises SpecError for a wrong argument.
      reward_clip: what the field clips the rewards of such an environment to while learning; 0 for nothing.
    """

    prefixes: tuple[str, ...]
    module: str
    extra: str
    within: tuple[str, ...] = ()
    by_hand: Callable[[], None] | None = None
    register_id: Callable[[str], None] = _nothing
    prepares: Callable[[EnvSpec], bool] | None = None
    make: Callable[[EnvSpec, dict[str, Any]], gymnasium.Env] = plain.make
    describe: Callable[[EnvSpec, dict[str, Any]], str] = plain.describe
    reward_clip: Callable[[gymnasium.Env], float] = _as_paid

    @property
    def installed(self) -> bool:
        """Whether the package is there; it is not imported for this."""
        return find_spec(self.module) is not None

    def owns(self, env_id: str) -> bool:
        """Whether an id, registered or not, is one of this family."""
        return env_id.startswith(self.prefixes) or any(part in env_id for part in self.within)

    def claims(self, spec: EnvSpec) -> bool:
        """Whether `make` makes this environment."""
        return self.owns(spec.id) if self.prepares is None else self.prepares(spec)

    def register(self) -> None:
        """Makes the family's ids known to Gymnasium, if the package is installed."""
        if not self.installed:
            return
        if self.by_hand is None:
            import_module(self.module)
        else:
            self.by_hand()


@runtime_checkable
class TranslatingSpace(Protocol):
    """A Gymnasium space whose observations are made of others by a wrapper, and that can make them itself.

    So what the environment shows without the wrapper can be given to a trained agent too.
    """

    def translated(self, observation: Any) -> Any:
        """An observation as the wrapped environment shows it, made into one of this space; any other as it is."""
        ...
