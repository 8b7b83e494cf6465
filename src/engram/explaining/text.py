"""An explanation as plain text, for a terminal and for whoever has pages read aloud."""

from collections.abc import Iterator, Sequence

from engram.explaining.moments import Faithful, Memory, Step, Told, World
from engram.explaining.sentences import ENTERED, memory_name, number

MOST_NUMBERS = 12  # of what was seen


def lines(told: Told) -> Iterator[str]:
    """The episodes, the key moments, and what was measured."""
    yield f"{told.agent}, {told.env}, checkpoint {told.checkpoint}, trained {told.trained:,} steps, seed {told.seed}"
    returns = ", ".join(f"{one:g}" for one in told.returns)
    yield f"returns: {returns}; steps told: {len(told.steps):,}"
    yield from faithful_lines(told.faithful)
    if told.health is not None:
        for light in told.health.lights:
            yield f"memory {light.name}: {light.value} [{light.state}: {light.rule}]"
    yield from (world_line(told, world) for world in told.worlds)
    for place, why in told.moments:
        step = told.steps[place]
        yield f"{where(told, step)} ({why}): {step.sentence}"
    yield from (f"note: {note}" for note in told.notes)
    yield ENTERED


def world_line(told: Told, world: World) -> str:
    """What an edited world came to."""
    after = "still" if world.after == world.before else "no longer"
    named = "is" if world.named else "is not"
    return (
        f"edited world, episode {world.episode}: {world.edit} (step {world.step}); step {world.asked} {after} chooses "
        f"{told.actions[world.before]}; leave-one-out names {world.first}, which {named} what was edited"
    )


def where(told: Told, step: Step) -> str:
    """Which step it is."""
    return f"episode {step.episode}, step {step.t}" if len(told.returns) > 1 else f"step {step.t}"


def faithful_lines(faithful: Sequence[Faithful]) -> Iterator[str]:
    """A line for each score."""
    if not faithful:
        yield "faithfulness: not measured"
    for one in faithful:
        if one.score is None or one.interval is None:
            yield f"faithfulness of {one.what}: {one.verdict}"
            continue
        low, high = one.interval
        told = f"{one.score:.2f} [{low:.2f}, {high:.2f}] over {one.samples} steps: {one.verdict}"
        yield f"faithfulness of {one.what}: {told}"


def step_lines(told: Told, step: Step) -> Iterator[str]:
    """All that is told of one step."""
    yield f"{where(told, step)}: {step.sentence}"
    yield from (f"  {name}: {value}" for name, value in step.facts[:MOST_NUMBERS])
    yield f"preferences ({told.unit}):"
    names = step.called or told.actions
    for action in sorted(step.rows, key=lambda one: -step.preference[one]):
        mark = "*" if action == step.action else " "
        allowed = "" if step.allowed[action] else "  not allowed"
        yield f"  {mark} {names[action]}: {number(step.preference[action])}{allowed}"
    yield (
        f"margin {number(step.margin)} = network {number(step.from_network)} + memories "
        f"{number(step.from_memories)} + rest {number(step.rest)}"
    )
    if step.memories:
        yield "remembered experiences:"
        yield from (f"  {_memory(names, one)}" for one in step.memories)
        count, weight, gave = step.others
        yield f"  {count} others: looked at {weight:.0%}, gave {number(gave)}"
    if step.still_moves:
        most = sorted(step.still_moves, key=lambda pair: -pair[1])[:5]
        yield "earlier steps that matter now (measured): " + ", ".join(f"step {t} {number(by)}" for t, by in most)
    if step.recalled:
        most = sorted(step.recalled, key=lambda pair: -pair[1])[:5]
        yield "earlier steps looked at: " + ", ".join(f"step {t} {weight:.0%}" for t, weight in most)
    if step.attention.size:
        mean = step.attention.mean(0)
        most_parts = sorted(range(len(mean)), key=lambda part: -mean[part])[:5]
        labels = [step.parts[part].label if part < len(step.parts) else f"part {part}" for part in most_parts]
        told_parts = (f"{label} {mean[part]:.0%}" for label, part in zip(labels, most_parts, strict=True))
        yield "parts looked at: " + ", ".join(told_parts)
    if step.parts_mattered:
        most = sorted(step.parts_mattered, key=lambda pair: -abs(pair[1]))[:5]
        yield "parts that mattered (measured): " + ", ".join(f"{step.parts[at].label} {by:+.3g}" for at, by in most)


def _memory(names: Sequence[str], one: Memory) -> str:
    mattered = "not measured" if one.mattered is None else f"{number(one.mattered)} (measured)"
    return (
        f"{memory_name(one)} ({names[one.action]}, id {one.id}): value {number(one.value)}, "
        f"looked at {one.looked_at:.0%}, gave {number(one.gave)}, mattered {mattered}"
    )
