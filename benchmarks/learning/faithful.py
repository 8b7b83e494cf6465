"""Whether explanations of real agents are true, where the step that decides is known: T-maze and RepeatFirst.

    python -m benchmarks.learning.faithful            both tasks, 5 seeds, attention and equal weights
    python -m benchmarks.learning.faithful --tasks tmaze --seeds 1 --steps 20000 --out /tmp/quick.json

The agents are those of `attended.py`. Their last parameters play 40 greedy episodes, which `engram.explain` records. At
every decision that depends on an earlier step, up to 100 of them for each agent:

- *hit@1*: the share whose most attended earlier step is the known one; beside it the same for *mattered* (the step that
  moves the preferences most when it is left out, exactly) and for gradient saliency.
- *deletion*: the score of `engram.explaining.faithfulness` by three orders: attention, saliency (the norm of the
  gradient of the margin by what the encoder gave at a step), and shuffled attention. 0 is chance, 1 the best order.

The agents with equal weights are the control: they attend to everything alike, so that attention cannot say anything.
"""

import argparse
import sys
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.learning.attended import TASKS, Task, trainer_of
from benchmarks.record import Record, add_flags
from benchmarks.scores import summary
from engram.agents.network import Previous
from engram.explaining import measuring, skipping
from engram.explaining.faithfulness import measure
from engram.explaining.recording import Recording, record

EPISODES = 40
DECISIONS = 100
COLUMNS = ("mean_return", "attention_hit", "mattered_hit", "saliency_hit", "attention_score", "saliency_score",
           "shuffled_score")  # fmt: skip


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
    rows = jax.tree.map(
        lambda leaf: jnp.asarray(leaf[: step + 1]),
        (kept.state.frames, kept.decision.encoding, kept.is_first, actions, kept.reward),
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


def watched(recording: Recording, seed: int) -> dict[str, Any]:
    """What one agent's explanations came to."""
    random = np.random.default_rng([seed, 0xFA17])
    decisions = decisions_of(recording, random)
    mattered = {
        number: skipping.density(recording.spec, recording.mind, recording.episodes[number])
        for number in {number for number, _, _ in decisions}
    }
    cases, steps, hits = [], [], {"attention": 0, "mattered": 0, "saliency": 0}
    gradients = []
    for number, step, relevant in decisions:
        episode, weights = recording.episodes[number], np.zeros(step)
        for past, weight in skipping.attended(episode, step):
            if past < step:
                weights[past] = weight
        moved = np.zeros(step)
        for past, effect in mattered[number][step]:
            moved[past] = effect
        gradient = saliency(recording, number, step)
        for name, order in (("attention", weights), ("mattered", moved), ("saliency", gradient)):
            hits[name] += int(np.argmax(order) == relevant and order.max() > order.min())
        chosen = episode.choice(step)
        cases.append(measuring.Case(weights, chosen.action, chosen.runner_up))
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
