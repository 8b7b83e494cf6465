"""Explanations made of numbers drawn here, not of an agent: for tests of what shows them."""

from dataclasses import dataclass, replace

import numpy as np

from engram.explaining.moments import Curve, Faithful, Health, Light, Memory, Part, Step, Told, World

ATARI = ["NOOP", "FIRE", "RIGHT", "LEFT", "RIGHTFIRE", "LEFTFIRE"]
BITS = 16  # of a step's number, as pixels of its picture


def picture(number: int, height: int = 210, width: int = 160) -> np.ndarray:
    """A court with two bats and a ball, like Pong's; the first rows carry `number`, a white pixel for each set bit."""
    image = np.full((height, width, 3), (144, 72, 17), np.uint8)
    image[: height // 6] = (60, 30, 8)
    image[height // 6 : height // 6 + 4] = image[-height // 12 :] = 236
    span = height - height // 3
    for column, speed, colour in ((width // 10, 3, (213, 130, 74)), (width - width // 10, 5, (92, 186, 92))):
        top = height // 6 + 4 + (number * speed) % max(1, span - 16)
        image[top : top + 16, column : column + max(1, width // 40)] = colour
    ball = height // 5 + (number * 7) % span, (number * 5) % (width - 4)
    image[ball[0] : ball[0] + 4, ball[1] : ball[1] + 2] = 236
    image[0, :BITS] = 0
    image[0, [bit for bit in range(BITS) if number >> bit & 1]] = 255
    return image


def grid(rows: int, columns: int) -> list[Part]:
    """Places of a picture."""
    return [
        Part(
            f"row {row + 1}, column {column + 1}",
            box=(column / columns, row / rows, (column + 1) / columns, (row + 1) / rows),
        )
        for row in range(rows)
        for column in range(columns)
    ]


def attention(rng: np.random.Generator, heads: int, parts: int) -> np.ndarray:
    scores = 2.2 * rng.standard_normal((heads, parts))
    weights = np.exp(scores - scores.max(1, keepdims=True)) if parts else scores
    return (weights / weights.sum(1, keepdims=True) if parts else weights).astype(np.float32)


def memory(rng: np.random.Generator, number: int, action: int, q: list[float], **changes) -> Memory:
    """A memory of `action` whose removal lowers (or raises) what that action is worth."""
    looked = float(np.float32(rng.dirichlet([0.3] * 4)[0]))
    gave = float(np.float32(0.4 * rng.standard_normal() * looked))
    without = [value - (gave if place == action else 0.0) for place, value in enumerate(q)]
    return replace(
        Memory(
            id=number, action=action, looked_at=looked, gave=gave, mattered=float(np.float32(1.1 * gave)),
            without=without,
            value=float(np.float32(rng.normal(3, 1))), environment=0, episode=number // 97, step=number % 97,
            age=int(rng.integers(1, 90_000)), reads=float(np.float32(rng.gamma(1.0, 3.0))),
        ),
        **changes,
    )  # fmt: skip


def step(rng: np.random.Generator, t: int, actions: list[str], memories: list[Memory] | None = None, **changes) -> Step:
    """One decision whose numbers add up."""
    count = len(actions)
    level = 3 + 2 * np.sin(t / 40)
    q = [float(np.float32(level + 0.3 * each)) for each in rng.standard_normal(count)]
    ranked = sorted(range(count), key=lambda action: -q[action])
    action, other = (ranked[0], ranked[1] if count > 1 else ranked[0]) if count else (0, 0)
    memories = memories or []
    others = (504, 0.12, float(np.float32(0.01 * rng.standard_normal()))) if memories else (0, 0.0, 0.0)
    margin = q[action] - q[other] if count else 0.0
    given = sum(each.gave for each in memories) + others[2]
    rest = float(np.float32(0.002 * rng.standard_normal()))
    sentence = "There was nothing to choose."
    if count:
        sentence = f"Chose {actions[action]}, {margin:.3f} above {actions[other]}; memory gave {given:.3f} of it."
    return replace(
        Step(
            t=t, episode=0, action=action, runner_up=other, allowed=[True] * count, q=q, preference=list(q),
            distribution=None, value=max(q, default=0.0), margin=margin, from_network=margin - given - rest,
            from_memories=given, rest=rest,
            without_memories=[value - 0.5 * (place == action) for place, value in enumerate(q)] if memories else None,
            share=None, memories=memories, others=others, attention=np.zeros((0, 0), np.float32), parts=[],
            recalled=[], still_moves=[], reward=float(rng.random() < 0.04) - float(rng.random() < 0.02),
            terminated=False, truncated=False, picture=None, facts=[],
            sentence=sentence,
        ),
        **changes,
    )  # fmt: skip


def told(steps: list[Step], actions: list[str], **changes) -> Told:
    """What is told around `steps`."""
    places = sorted({0, len(steps) // 3, len(steps) // 2, len(steps) - 1}) if steps else []
    reasons = ("largest margin", "largest memory effect", "choice flips without memory", "before the end")
    return replace(
        Told(
            agent="rainbow-memory: spatial attention (4 heads), episodic memory", env="ALE/Pong-v5",
            checkpoint="a3f19c02bb7e", trained=2_000_000, seed=7, actions=actions, unit="Q", steps=steps,
            returns=[float(sum(each.reward for each in steps))],
            moments=list(zip(places, reasons, strict=False)), faithful=[faithful(), faithful("input", 0.02)],
            health=health(len(steps)), notes=[],
            holds=["pictures of the episodes told", "thumbnails of remembered experiences", "names of actions"],
            versions={"engram": "0.1.0", "jax": "0.10.2", "numpy": "2.4.6"},
        ),
        **changes,
    )  # fmt: skip


def faithful(what: str = "memories", score: float = 0.61) -> Faithful:
    sizes = [1, 2, 4, 8, 16]
    share = np.linspace(0, 1, len(sizes))
    ours = (1 - share * 0.9 * (0.5 + score)).tolist()
    random = (1 - share * 0.45).tolist()
    curves = [
        Curve(
            what, way, sizes, ours if way == "deletion" else ours[::-1], random if way == "deletion" else random[::-1],
            [(at - 0.06, at + 0.06) for at in (random if way == "deletion" else random[::-1])],
            (1 - share * 0.2).tolist(), (1 - share).tolist(),
        )
        for way in ("deletion", "insertion")
    ]  # fmt: skip
    verdict = (
        "attention predicts what mattered here" if score > 0.2 else "not shown: treat the highlights as decoration"
    )
    return Faithful(
        what, score, (score - 0.13, score + 0.11), 0.52, (0.4, 0.63), 0.01, -0.02, 0.31, 100, verdict, curves,
        ["100 steps, 32 random orders, weights renormalised after removal"],
    )  # fmt: skip


def health(steps: int) -> Health:
    lights = [
        Light("fill", "98 %", "good", "good from 50 %"),
        Light("never read", "41 %", "look", "look closer above 30 %"),
        Light("duplicates", "3 %", "good", "good below 10 %"),
        Light("stale keys", "27 %", "bad", "bad above 20 % with cosine below 0.9"),
    ]
    ages = [(float(at) * 1000, float(at + 1) * 1000, int(900 / (at + 1))) for at in range(12)]
    reads = [(float(at), float(at + 1), int(2000 / (at * at + 1))) for at in range(10)]
    return Health(9_800, 10_000, lights, ages, reads, [float(3 + np.sin(at / 9)) for at in range(steps)])


def atari(steps: int = 1000, seed: int = 0, heads: int = 4, side: int = 11, memories: int = 8) -> Told:
    """An episode like one of an Atari game: pictures, `heads` heads over `side` x `side` places, `memories` a step."""
    rng = np.random.default_rng(seed)
    parts = grid(side, side)
    pool = [picture(10_000 + number, 84, 84) for number in range(60)]
    made = []
    for t in range(steps):
        q = [float(np.float32(value)) for value in rng.normal(3, 0.3, len(ATARI))]
        numbers = rng.choice(4000, memories, replace=False)
        kept = [
            memory(rng, int(n), int(rng.integers(len(ATARI))), q, picture=pool[int(n) % len(pool)]) for n in numbers
        ]
        last = t == steps - 1
        made.append(
            step(
                rng, t, ATARI, kept, picture=picture(t), parts=parts, attention=attention(rng, heads, side * side),
                terminated=last,
                parts_mattered=[(part, 0.1 * (part - 5)) for part in range(min(12, side * side)) if t % 40 == 0],
            )
        )  # fmt: skip
    return told(made, ATARI)


NUMBERS = ["cart position", "cart velocity", "pole angle", "pole velocity"]


def cartpole(steps: int = 200, seed: int = 0) -> Told:
    """An episode without pictures, of numbers with names, with a working memory."""
    rng = np.random.default_rng(seed)
    made = []
    for t in range(steps):
        facts = [(name, f"{value:.4f}") for name, value in zip(NUMBERS, rng.normal(0, 0.2, 4), strict=True)]
        past = range(max(0, t - 15), t)
        weights = attention(rng, 1, len(past))[0] if past else []
        made.append(
            step(
                rng, t, ["left", "right"], [memory(rng, int(n), int(n) % 2, [3.0, 2.9]) for n in rng.choice(500, 3)],
                facts=facts, parts=[Part(name, value) for name, value in facts], attention=attention(rng, 2, 4),
                recalled=[(at, float(w)) for at, w in zip(past, weights, strict=True)],
                still_moves=[(at, float(0.1 * w)) for at, w in zip(past, weights, strict=True)], reward=1.0,
                truncated=t == steps - 1,
            )
        )  # fmt: skip
    return told(made, ["left", "right"], env="CartPole-v1", agent="nec: episodic memory", faithful=[])


EXTREME = (0.0, -0.0, 1e-308, -1e300, 1e300, 3.4e38, 5e-324, 1e-6, -7.25, np.inf, -np.inf, np.nan)


@dataclass
class Wild:
    """Draws the parts of a valid explanation in which anything may stand."""

    rng: np.random.Generator
    texts: list[str]

    def number(self) -> float:
        return float(self.rng.choice(EXTREME)) if self.rng.random() < 0.2 else float(self.rng.normal(0, 100))

    def numbers(self, count: int) -> list[float]:
        return [self.number() for _ in range(count)]

    def text(self) -> str:
        return self.texts[self.rng.integers(len(self.texts))]

    def maybe(self, value):
        return value if self.rng.random() < 0.7 else None

    def picture(self) -> np.ndarray:
        return self.rng.integers(0, 256, (*self.rng.integers(1, 9, 2), 3), dtype=np.uint8)

    def facts(self) -> list[tuple[str, str]]:
        return [(self.text(), self.text()) for _ in range(self.rng.integers(3))]

    def action(self, count: int) -> int:
        return int(self.rng.integers(max(1, count)))

    def memory(self, count: int) -> Memory:
        whole = [int(value) for value in self.rng.integers(-1, 10**6, 3)]
        return Memory(
            int(self.rng.integers(2**40)), self.action(count), float(self.rng.random()), self.number(),
            self.maybe(self.number()), self.maybe(self.numbers(count)), self.number(), *whole,
            age=self.maybe(int(self.rng.integers(10**9))), reads=self.maybe(self.number()),
            picture=self.maybe(self.picture()), facts=self.facts(),
        )  # fmt: skip

    def pairs(self) -> list[tuple[int, float]]:
        return [(int(self.rng.integers(500)), self.number()) for _ in range(self.rng.integers(4))]

    def step(self, t: int, actions: list[str], heads: int) -> Step:
        count, parts = len(actions), int(self.rng.integers(20))
        names = ("margin", "from_network", "from_memories", "rest", "value", "reward")
        spread = [list(zip(self.numbers(3), self.rng.dirichlet([1.0] * 3).tolist(), strict=True)) for _ in actions]
        return replace(
            step(self.rng, t, actions), action=self.action(count), runner_up=self.action(count),
            q=self.numbers(count), preference=self.numbers(count),
            allowed=[bool(self.rng.integers(2)) for _ in actions],
            distribution=self.maybe(spread), without_memories=self.maybe(self.numbers(count)),
            share=self.maybe(self.numbers(count)), memories=[self.memory(count) for _ in range(self.rng.integers(4))],
            others=(int(self.rng.integers(9)), float(self.rng.random()), self.number()),
            attention=attention(self.rng, heads, parts),
            parts=[Part(self.text(), self.text(), self.maybe((0.1, 0.2, 0.5, 0.9))) for _ in range(parts)],
            parts_mattered=[(part, self.number()) for part in range(min(parts, 2))],
            recalled=self.pairs(), still_moves=self.pairs(), terminated=bool(self.rng.integers(2)),
            picture=self.maybe(self.picture()), facts=self.facts(), sentence=self.text(),
            called=self.maybe([self.text() for _ in actions[int(self.rng.integers(3)) :]]) or [],
            **{name: self.number() for name in names},
        )  # fmt: skip


def wild(seed: int, actions: int = 3, heads: int = 2, steps: int = 3, texts: list[str] | None = None) -> Told:
    """A valid explanation of extreme numbers and of `texts` in every place of a text."""
    make = Wild(np.random.default_rng(seed), texts or [""])
    names = [make.text() for _ in range(actions)]
    made = [make.step(t, names, heads) for t in range(steps)]
    score = make.maybe(make.number())
    return told(
        made, names, agent=make.text(), env=make.text(), checkpoint=make.text(), unit=make.text(),
        returns=make.numbers(2), moments=[(place, make.text()) for place in range(steps)], notes=[make.text()],
        faithful=[replace(faithful(), score=score, what=make.text(), verdict=make.text(), notes=[make.text()])],
        worlds=[World(make.text(), 0, 0, 1, make.action(actions), make.action(actions), make.text(), True)],
        health=make.maybe(health(steps)), versions={make.text(): make.text()}, holds=[make.text()],
    )  # fmt: skip
