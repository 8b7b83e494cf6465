"""Whether explanations of real agents are true, where the step that decides is known: T-maze and RepeatFirst.

    python -m benchmarks.learning.faithful            both tasks, 5 seeds, attention and equal weights
    python -m benchmarks.learning.faithful --tasks tmaze --seeds 1 --steps 20000 --out /tmp/quick.json

The agents are those of `attended.py`. Their last parameters play 40 greedy episodes, which `engram.explain` records. At
every decision that depends on an earlier step, up to 100 of them for each agent:

- *hit@1*: the share whose most attended earlier step is the known one; beside it the same for *mattered* (the step that
  moves the preferences most when it is left out, exactly) and for gradient saliency.
- *deletion*: the score of `engram.explaining.faithfulness` by three orders: attention, saliency (the norm of the
  gradient of the margin by what the encoder gave at a step), and shuffled attention. 0 is chance, 1 the best order.

- *covered*: hit@1 of the step that moves the margin most when its observation is that of another time. Its place in the
  episode stays, which it does not where a step is left out.
- *turned*: the share of decisions that another cue (another first card) changes. Only there the known step decides.
- hit@1 for each thing that the known step showed: an agent may look for one cue alone, and take it for the other when
  it finds none. The step that showed the other is then not what it looks at, and leaving it out changes little.

The agents with equal weights are the control: they attend to everything alike, so that attention cannot say anything.
"""

import argparse
import sys
from collections import defaultdict
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.learning.attended import TASKS, Task, trainer_of
from benchmarks.record import Record, add_flags
from benchmarks.scores import summary
from engram.agents.network import Previous
from engram.agents.statistics import as_learned
from engram.explaining import measuring, rereading, skipping, worlds
from engram.explaining.faithfulness import measure
from engram.explaining.recording import Episode, Recording, record
from engram.explaining.worlds import MOST_FILLS

EPISODES = 40
DECISIONS = 100
HITS = ("attention", "mattered", "covered", "saliency")
COLUMNS = ("mean_return", "attention_hit", "mattered_hit", "covered_hit", "saliency_hit", "turned", "attention_score",
           "saliency_score", "shuffled_score")  # fmt: skip


def decisions_of(recording: Recording, random: np.random.Generator) -> list[tuple[int, int, int]]:
    """Episode, step, and the earlier step that decides, of the decisions that depend on one; at most `DECISIONS`."""
    env: Any = recording.env
    found = []
    for number, episode in enumerate(recording.episodes):
        relevant = np.asarray(jax.vmap(env.relevant_step)(episode.states))
        found += [(number, step, int(one)) for step, one in enumerate(relevant) if 0 <= one < step and step >= 2]
    if len(found) > DECISIONS:
        found = [found[i] for i in sorted(random.choice(len(found), DECISIONS, replace=False))]
    return found


def saliency(recording: Recording, number: int, step: int) -> np.ndarray:
    """The norm of d margin / d embedding at each earlier step."""
    episode, mind = recording.episodes[number], recording.mind
    kept, network = episode.kept, mind.network
    chosen = episode.choice(step)
    actions = np.zeros(episode.length, np.int32) if kept.state.action is None else kept.state.action
    reward = as_learned(recording.spec, network.scales, jnp.asarray(kept.reward))
    rows = jax.tree.map(
        lambda leaf: jnp.asarray(leaf[: step + 1]),
        (kept.state.frames, kept.decision.encoding, kept.is_first, actions, reward),
    )

    def margin(embedding: jax.Array) -> jax.Array:
        def one(carry: Any, row: Any) -> tuple[Any, jax.Array]:
            (frames, encoding, is_first, action, reward), embedded = row
            encoding = replace(encoding, embedding=embedded)
            carry, decision = network.step_encoded(
                carry, frames, encoding, is_first, Previous(action, reward), network.still
            )
            return carry, decision.q

        q = jax.lax.scan(one, network.working.init(), (rows, embedding))[1][-1]
        return q[chosen.action] - q[chosen.runner_up]

    gradient = jax.grad(margin)(rows[1].embedding)
    return np.asarray(jnp.sqrt((gradient**2).sum(-1)))[:step]


def seen_otherwise(recording: Recording, episode: Episode, step: int, observation: Any) -> np.ndarray:
    """What would be preferred at every step, had the observation of one step been another."""
    kept = episode.kept

    def other(leaf: np.ndarray, new: Any) -> np.ndarray:
        leaf = np.array(leaf)
        leaf[step, -1] = new
        return leaf

    state = replace(kept.state, frames=jax.tree.map(other, kept.state.frames, observation))
    return skipping.rerun(recording.spec, recording.mind, replace(episode, kept=kept._replace(state=state)))


def covered(recording: Recording, episode: Episode) -> np.ndarray:
    """At each step (row), how far its margin moves when the observation of each step is that of another time.

    The mean over up to `MOST_FILLS` other times.
    """
    length, latest = episode.length, jax.tree.map(lambda leaf: leaf[:, -1], episode.kept.state.frames)
    choices = [episode.choice(step) for step in range(length)]
    chosen, runner_up = (np.array([getattr(one, name) for one in choices]) for name in ("action", "runner_up"))
    rows, others = np.arange(length), np.unique(np.linspace(0, length - 1, MOST_FILLS + 1).round().astype(int))
    whole = episode.kept.preference[rows, chosen] - episode.kept.preference[rows, runner_up]
    moved = np.zeros((length, length))
    for step in range(length):
        for time in others[others != step]:
            found = seen_otherwise(recording, episode, step, rereading.at(latest, time))
            moved[:, step] += np.abs(found[rows, chosen] - found[rows, runner_up] - whole) / (len(others) - 1)
    return moved


def is_turned(recording: Recording, number: int, step: int, relevant: int) -> bool:
    """Whether another thing at the step that is known to decide changes the choice."""
    env: Any = recording.env
    episode = recording.episodes[number]
    for edit in worlds.edits(env, rereading.at(episode.states, relevant)):
        after = seen_otherwise(recording, episode, relevant, edit.observation)[step]
        if int(after.argmax()) != episode.choice(step).action:
            return True
    return False


def watched(recording: Recording, seed: int) -> dict[str, Any]:
    """What one agent's explanations came to."""
    random = np.random.default_rng([seed, 0xFA17])
    decisions = decisions_of(recording, random)
    mattered = {
        number: skipping.density(recording.spec, recording.mind, recording.episodes[number])
        for number in {number for number, _, _ in decisions}
    }
    otherwise = {number: covered(recording, recording.episodes[number]) for number in mattered}
    cases, steps, gradients, turned = [], [], [], 0
    hits: dict[str, int] = dict.fromkeys(HITS, 0)
    by_cue: Any = defaultdict(lambda: dict.fromkeys(("decisions", "turned", *HITS), 0))
    for number, step, relevant in decisions:
        episode, weights = recording.episodes[number], np.zeros(step)
        for past, weight in skipping.attended(episode, step):
            if past < step:
                weights[past] = weight
        moved = np.zeros(step)
        for past, effect in mattered[number][step]:
            moved[past] = effect
        gradient = saliency(recording, number, step)
        shown = jax.tree.map(lambda leaf, at=relevant: leaf[at, -1], episode.kept.state.frames)
        mine = by_cue[" ".join(f"{value:g}" for leaf in jax.tree.leaves(shown) for value in np.ravel(leaf))]
        mine["decisions"] += 1
        turns = is_turned(recording, number, step, relevant)
        turned += turns
        mine["turned"] += turns
        for name, order in zip(HITS, (weights, moved, otherwise[number][step, :step], gradient), strict=True):
            hit = int(np.argmax(order) == relevant and order.max() > order.min())
            hits[name] += hit
            mine[name] += hit
        chosen = episode.choice(step)
        cases.append(measuring.Case(weights, chosen.action, chosen.runner_up, place=(number, step)))
        gradients.append(gradient)
        steps.append(np.arange(step))
    places = [(number, step) for number, step, _ in decisions]
    by_attention = measuring.History(recording, places, cases, steps)
    salient = [case._replace(weights=one) for case, one in zip(cases, gradients, strict=True)]
    ours = measure(by_attention, np.random.default_rng([seed, 1]))
    theirs = measure(measuring.History(recording, places, salient, steps), np.random.default_rng([seed, 1]))
    returns = [episode.total for episode in recording.episodes]
    found = {f"{name}_hit": count / max(1, len(decisions)) for name, count in hits.items()}
    return found | {
        "turned": turned / max(1, len(decisions)), "by_what_was_shown": dict(sorted(by_cue.items())),
        "decisions": len(decisions), "mean_return": float(np.mean(returns)), "attention_score": ours.score,
        "attention_interval": ours.interval, "verdict": ours.verdict, "shuffled_score": ours.shuffled,
        "saliency_score": theirs.score, "saliency_interval": theirs.interval, "agreement": ours.agreement,
    }  # fmt: skip


def learn(task: Task, seed: int, steps: int, uniform: bool) -> dict[str, Any]:
    """One agent, trained and explained."""
    with trainer_of(task, seed, steps, uniform, evaluate_every=0, progress=False) as trainer:
        trainer.learn()
        return watched(record(trainer.trained(), EPISODES, seed, pictured=False), seed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=20)
    parser.add_argument("--steps", type=int, help="of each run; the task's own if left out")
    add_flags(parser, "faithful")
    options = parser.parse_args()
    asked = {"episodes": EPISODES, "decisions": DECISIONS, "steps": options.steps, "first_seed": options.first_seed}
    record_of = Record(options, asked)
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for name in options.tasks.split(","):
            for uniform in (False, True):
                part = f"{name}, {'equal weights' if uniform else 'attention'}: seed {seed}"
                if part not in record_of.parts:
                    task = TASKS[name]
                    record_of.put(part, learn(task, seed, options.steps or task.steps, uniform))
                    print(part, record_of.parts[part], file=sys.stderr, flush=True)
                    jax.clear_caches()  # each program maps memory, and those of twenty agents do not fit
    found: dict[str, Any] = {}
    print(f"| task | {' | '.join(name.replace('_', ' ') for name in COLUMNS)} |\n" + "|---" * (len(COLUMNS) + 1) + "|")
    for group in sorted({part.partition(":")[0] for part in record_of.parts}):
        rows = [row for part, row in record_of.parts.items() if part.partition(":")[0] == group]
        found[group] = {column: summary([row[column] or 0.0 for row in rows]) for column in COLUMNS}
        cells = [f"{found[group][one]['mean']:.3f} {found[group][one]['mean_interval_95'] or ''}" for one in COLUMNS]
        print(f"| {group} | {' | '.join(cells)} |")
    record_of.summarize(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
