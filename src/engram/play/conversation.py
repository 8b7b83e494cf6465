"""Somebody plays with, against or talks to a trained agent: what an environment offers for that.

An environment that can be played by a person has one more method, `converse`. It holds the whole conversation: it
asks, tells, lets the agent choose, and returns when it is over. `engram play RUN` gives it a terminal.

    class Guess:
        ...

        def converse(self, agent, ask, tell, seed):
            number = int(ask("your number: "))
            action, state = agent.predict(observation)
            tell(f"I say {action}")

Both kinds of environments may have it: a device environment is itself the `self`, of a host environment it is
`env.unwrapped`. An agent that translates is talked to by `play.translating`, which needs more than `predict`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from engram.envs.tasks.translate import Translate
from engram.errors import SpecError
from engram.play.playing import LONGEST

Ask = Callable[[str], str]  # shows a prompt, gives the line that was typed, without blanks around it
Tell = Callable[[str], None]  # shows some lines


class Predicts(Protocol):
    """Of an agent, what a conversation needs: `TrainedAgent` has it."""

    def predict(self, observation: Any, state: Any = None, *args: Any, **named: Any) -> tuple[Any, Any]: ...

    def took(self, state: Any, action: Any) -> Any: ...


class Conversing(Protocol):
    """An environment that a person can play."""

    def converse(self, agent: Predicts, ask: Ask, tell: Tell, seed: int) -> None:
        """The whole conversation, until it is over.

        `ask` raises EOFError where the person leaves; nothing needs to catch that. `seed`: of all that is drawn, so
        that the same seed and the same answers give the same conversation.
        """
        ...


@contextmanager
def conversing(agent: Any, seed: int = 0) -> Iterator[Conversing]:
    """The environment of a trained agent, as one that a person can play.

    Raises SpecError where it is none.
    """
    if agent.on_device:
        yield _able(agent, agent.device_world())
        return
    with agent.host_world(seed, 1, LONGEST) as envs:
        made = getattr(envs, "instances", None)
        yield _able(agent, made[0].unwrapped if made else None)


class Interpreter:
    """A translator has more to say than one action after another."""

    def converse(self, agent: Any, ask: Ask, tell: Tell, seed: int) -> None:
        """Sentences and their translations, until the person leaves."""
        from engram.play.translating import converse

        converse(agent, ask, tell)


def _able(agent: Any, env: Any) -> Conversing:
    if isinstance(env, Translate):
        return Interpreter()
    if not callable(getattr(env, "converse", None)):
        name = agent.world_name or "this environment"
        raise SpecError(
            f"{name} cannot be played by a person, because it has no method `converse`; watch the agent with: "
            f"engram watch RUN"
        )
    return env
