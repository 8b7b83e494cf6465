"""Translations by a trained agent of `engram/Translate-v0`: greedy, or by a beam over Q.

agent = engram.load("runs/mine")
translate(agent, ["Insert row", "Open the file"], beam=4)
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from engram.agents.mind import MindSpec
from engram.agents.policy import Mind, PolicyState, Seen, begin, look, still
from engram.envs.device import make_device
from engram.envs.tasks.translate import BEGIN, Translate
from engram.envs.translation.cleaning import filled, numbered, unmarked
from engram.envs.translation.vocabulary import PLACEHOLDERS
from engram.errors import SpecError
from engram.play.conversation import Ask, Tell
from engram.play.trained import TrainedAgent
from engram.precision import in_32_bits

AT_ONCE = 256  # hypotheses that are written side by side
BEAM = 4  # of a conversation


def translate(
    agent: TrainedAgent,
    texts: Sequence[str],
    *,
    beam: int = 1,
    temperature: float = 0.05,
    data: str | None = None,
    seed: int = 0,
) -> list[str]:
    """The translation of each text.

    Args:
      beam: hypotheses that are kept; 1 takes the best token at each step. A hypothesis is worth the mean over its
        tokens of log softmax(Q / temperature): Q says what is to come, and not what was earned, which only the
        reference knows.
      temperature: in units of return; `conservative.temperature` of the agent is a good one.
      data: the corpus whose vocabulary the agent learned; that of its training by default.
      seed: which agent of a run of several.

    Raises SpecError for an agent of another environment, a beam below 1, and a text with more tokens than the longest
    source of the corpus.
    """
    env = _environment(agent, data)
    if isinstance(texts, str):
        raise SpecError(f"texts = {texts[:60]!r} was given; expected a list of texts, such as [{texts[:20]!r}]")
    if not 0 <= seed < len(agent.minds):
        raise SpecError(f"seed = {seed} was given; this run has {len(agent.minds)}, numbered from 0")
    if beam < 1 or temperature <= 0:
        raise SpecError(f"beam = {beam} and temperature = {temperature} were given; give 1 or more, and more than 0")
    vocabulary, places = env.corpus.vocabulary, env.places[0]
    source = np.zeros((len(texts), places), np.int16)
    marked = [numbered(text) for text in texts]  # what a program fills in is one token, as where it learned
    for number, (row, (text, names)) in enumerate(zip(source, marked, strict=True)):
        if len(names) > len(PLACEHOLDERS):
            raise SpecError(
                f"text {number} has {len(names)} placeholders; this agent translates {len(PLACEHOLDERS)} at most"
            )
        symbols = np.asarray(vocabulary.encode(unmarked(text)), np.int16) + 1  # as where it learned
        if not 0 < len(symbols) <= places:
            raise SpecError(
                f"text {number} has {len(symbols)} tokens; this agent translates 1 to {places}: {text[:60]!r}"
            )
        row[: len(symbols)] = symbols
    found = decoded(env, agent.plan.agent, agent.minds[seed], source, beam, temperature)
    return [filled(vocabulary.decode(row), names) for row, (_, names) in zip(found, marked, strict=True)]


def converse(agent: TrainedAgent, ask: Ask, tell: Tell) -> None:
    """A person types sentences, and is told each translation: the greedy one, and that of a beam where it differs."""
    data = agent.world_args.get("data")  # another folder, where it was asked for: that of training may be gone
    data = None if data == agent.plan.env_args.get("data") else data
    tell(f"Type a sentence of at most {_environment(agent, data).places[0]} tokens, or quit.")
    while True:
        text = ask("source> ")
        if not text:
            continue
        try:
            [greedy], [best] = (translate(agent, [text], beam=beam, data=data) for beam in (1, BEAM))
        except SpecError as problem:
            tell(f"{problem}")
            continue
        tell(f"greedy> {greedy}")
        if best != greedy:
            tell(f"beam of {BEAM}> {best}")


def _environment(agent: TrainedAgent, data: str | None) -> Translate:
    if agent.plan.env != "engram/Translate-v0":
        raise SpecError(f"this agent learned {agent.plan.env}; expected one of engram/Translate-v0")
    env: Any = make_device("engram/Translate-v0", **{**agent.plan.env_args, **({} if data is None else {"data": data})})
    if env.observation_space != agent.plan.space or not _learned(agent, env, data is not None):
        raise SpecError(
            f"data = {env.data!r} has another vocabulary than this agent learned; name the folder of its run"
        )
    return env


def _learned(agent: TrainedAgent, env: Translate, other: bool) -> bool:
    """Whether the tokens of a corpus mean what they meant where the agent learned. `other`: it is another corpus."""
    if not other:
        return getattr(agent.plan, "data", None) in (None, env.data_digest)
    try:
        own: Any = make_device("engram/Translate-v0", **agent.plan.env_args)
    except SpecError:  # it lies nowhere any more, or elsewhere
        return getattr(agent.plan, "data", None) in (None, env.data_digest)
    return own.corpus.vocabulary.pieces == env.corpus.vocabulary.pieces


class Beam(NamedTuple):
    """Hypotheses. Axes [texts beam]; leaves of `policy` have both as one."""

    policy: PolicyState
    prefix: Int[Array, "texts beam places"]
    tokens: Int[Array, "texts beam places"]  # numbers of pieces, END after the last
    total: Float[Array, "texts beam"]  # sum of log softmax(Q / temperature)
    size: Int[Array, "texts beam"]  # tokens, END included
    over: Bool[Array, "texts beam"]


@in_32_bits
def decoded(
    env: Translate, spec: MindSpec, mind: Mind, source: Int[np.ndarray, "texts places"], beam: int, temperature: float
) -> Int[np.ndarray, "texts length"]:
    """Numbers of pieces of the best hypothesis of each source, END after its last token."""
    run = _decoder(env, env.data_digest, spec, beam, temperature)
    at_once = max(1, min(AT_ONCE // beam, 1 << (len(source) - 1).bit_length()))  # one sentence need not be a crowd
    rows = np.concatenate([source, np.zeros((-len(source) % at_once, source.shape[1]), source.dtype)])
    parts = [np.asarray(run(mind, rows[start : start + at_once])) for start in range(0, len(rows), at_once)]
    return np.concatenate(parts)[: len(source)] if parts else np.zeros((0, env.places[1]), np.int32)


@lru_cache(maxsize=8)  # a conversation compiles once
def _decoder(env: Translate, digest: str, spec: MindSpec, beam: int, temperature: float) -> Any:
    del digest  # a folder that was made anew has the same name and other sizes
    steps = env.places[1]
    shown = min(env.context or steps, steps)

    def run(mind: Mind, source: Int[Array, "texts places"]) -> Int[Array, "texts length"]:
        texts = len(source)
        repeated = jnp.repeat(source, beam, 0)
        bits = still(mind.network, texts * beam)

        def one(held: Beam, number: Int[Array, ""]) -> tuple[Beam, None]:
            seen = {"prefix": held.prefix[..., :shown].reshape(-1, shown), "source": repeated}
            first = jnp.full(texts * beam, number == 0)
            looked = look(spec, mind, held.policy, Seen(seen, first, jnp.zeros(texts * beam)), bits)
            logs = jax.nn.log_softmax(looked.decision.preference / temperature).reshape(texts, beam, -1)
            return _grown(held._replace(policy=looked.state), logs, number), None

        prefix = jnp.zeros((texts, beam, steps), jnp.int16).at[..., 0].set(BEGIN)
        total = jnp.where(jnp.arange(beam) == 0, 0.0, -jnp.inf)  # all begin alike: one is enough
        nothing = jnp.zeros((texts, beam), jnp.int32)
        empty = jnp.zeros((texts, beam, steps), jnp.int32)
        held = Beam(
            begin(spec, mind.network, texts * beam), prefix, empty, jnp.broadcast_to(total, nothing.shape), nothing,
            nothing > 0,
        )  # fmt: skip
        held, _ = jax.lax.scan(one, held, jnp.arange(steps))
        best = (held.total / jnp.maximum(held.size, 1)).argmax(1)
        return jnp.take_along_axis(held.tokens, best[:, None, None], 1)[:, 0]

    return jax.jit(run)


def _grown(held: Beam, logs: Float[Array, "texts beam actions"], number: Int[Array, ""]) -> Beam:
    """The best hypotheses of each text with one token more; those that are over stay as they are."""
    texts, beam, actions = logs.shape
    stays = jnp.where(jnp.arange(actions) == 0, 0.0, -jnp.inf)
    total = held.total[..., None] + jnp.where(held.over[..., None], stays, logs)
    size = held.size + ~held.over
    worth = total / size[..., None]
    chosen = jax.lax.top_k(worth.reshape(texts, -1), beam)[1]
    parent, token = chosen // actions, (chosen % actions).astype(jnp.int32)

    def taken(leaf: Array) -> Array:
        return jnp.take_along_axis(leaf, parent.reshape(texts, beam, *[1] * (leaf.ndim - 2)), 1)

    def of_policy(leaf: Array) -> Array:
        return taken(leaf.reshape(texts, beam, *leaf.shape[1:])).reshape(leaf.shape)

    policy: PyTree = jax.tree.map(of_policy, held.policy)
    if policy.action is not None:  # what an agent with a working memory is told of its last action
        policy = PolicyState(policy.frames, policy.carry, token.reshape(-1), policy.episode)
    over = taken(held.over)
    prefix = jnp.concatenate([(token + 1).astype(jnp.int16)[..., None], taken(held.prefix)[..., :-1]], -1)
    tokens = taken(held.tokens).at[..., number].set(jnp.where(over, 0, token))
    best = jnp.take_along_axis(total.reshape(texts, -1), chosen, 1)
    return Beam(policy, prefix, tokens, best, taken(size), over | (token == 0))
