"""What is said of an agent that was chosen: why, and what it takes for granted."""

from engram import registry, spaces
from engram.agents.mind import MindSpec
from engram.agents.spec import AgentSpec
from engram.agents.usual import kind_of


def reasons(spec: MindSpec, space: spaces.Space) -> str:
    """The choices for an observation space, as one line: `encoder spatial for an image, ...`."""
    seen = {
        "pixels": "an image", "grid": "a board", "entities": "rows that each describe something", "text": "a text",
        "vector": "numbers and categories",
    }  # fmt: skip
    names = {role: registry.name_of(role, type(getattr(spec, role))) for role in ("encoder", "working", "head")}
    memory = (
        f"working memory {names['working']}, learning from {spec.examples}"
        if spec.has_memory
        else f"no working memory (one observation is taken to tell enough: {spec.remembering} if not)"
    )
    masked = ", forbidden actions left out" if spaces.has(space, spaces.MASK) else ""
    return f"encoder {names['encoder']} for {seen[kind_of(space)]} ({space}); {memory}; head {names['head']}{masked}"


def assumptions(spec: MindSpec, space: spaces.Space) -> list[str]:
    """What was taken for granted about an observation space and the task, each as a sentence with the way out."""
    what, told = spaces.seen(space), []
    encoder = registry.name_of("encoder", type(spec.encoder))
    if isinstance(what, spaces.Box) and len(what.shape) == 2 and encoder == "vector" and min(what.shape) > 1:
        rows, columns = what.shape
        told.append(f"the {rows} x {columns} numbers keep order and place; if the rows are a set: encoder=entities")
    scaled = [(path, leaf) for path, leaf in spaces.leaves(space) if isinstance(leaf, spaces.Box) and leaf.scale]
    for path, leaf in scaled:
        told.append(f"{f'{path}: ' if path else ''}numbers are scaled to within -1..1 by their bounds, {leaf.bounds}")
    most = spaces.one_hot(what)
    for path, leaf in spaces.leaves(what):
        if (n := max(spaces.categories(leaf), default=0)) > most:
            base, count = spaces.digits(n, most)
            told.append(f"{f'{path}: ' if path else ''}{n:,} categories are read as {count} digits of {base} each")
    if spec.reward_clip:
        told.append(
            f"rewards are learned from within +-{spec.reward_clip:g}, which changes the task; what is reported is not "
            f"clipped (reward_clip=0: as they are)"
        )
    if spec.head.predicts != "number" and "number" in spec.loss.fits:
        way = "quantile-huber" if spec.head.predicts == "quantiles" else "cross-entropy"
        told.append(f"of the distribution of returns the loss sees the mean alone; to learn it whole: loss={way}")
    if spec.rests_on_norm and not getattr(spec.encoder, "norm", True):
        told.append("encoder.norm = false, without a target network: the source of pqn rests on normalised layers")
    if spec.discount != AgentSpec().discount:
        told.append(f"returns are discounted by {spec.discount:g} a step, which may change what is best (discount=)")
    return told


ENOUGH = 15_000  # rows of replay from which on a sweep found no gain: docs/results.md


def why_so_many(name: str, spec: MindSpec, space: spaces.Space) -> str:
    """Why the preset `auto` keeps so many rows, where that was tried: over numbers and categories."""
    if name != "auto" or kind_of(space) != "vector" or spec.replay_rows < ENOUGH:
        return ""
    few = "1,200 were worse on one task of two"
    return f" (in a sweep {ENOUGH:,} rows learned as well as 50,000, and {few}: docs/results.md)"
