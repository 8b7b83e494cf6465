"""Translation: an agent that learns from references and from its own chrF, its supervised twin, memory and controls.

    python -m engram.envs.translation .benchmarks/office-de --from libreoffice-de
    python -m benchmarks.learning.translation --data .benchmarks/office-de
    python -m benchmarks.learning.translation --data .benchmarks/office-de --seeds 1 --agents twin;reward --continue

Two cells learn from the references alone, `--start` updates each: `start` by cross-entropy (the conservative term
without the return's loss), and `grounded` by cross-entropy and by what each reference token was paid until the end. The
second one's Q has a level, so that learning by reward need not find it first. From them go on, for as many updates each
(`--more`):

    twin        from `start`, cross-entropy alone: the supervised twin, of equal size and with equally many updates
    more        from `grounded`, as before: what references alone give to it
    reward      from `grounded`, Q-learning for the change of chrF, half of each batch from the agent's own translations
    constant    the same for 1 at the end whatever was written: what is gained here is not the reward's doing
    memory      `reward`, with the references in an external memory that is read at every token

and beside them, without learning, `copy` (the source as its own translation) and `nearest` (the translation of the
source that is nearest by words, weighted by how rare they are).

Test sentences are translated greedily, and by a beam of 4. chrF and BLEU are sacrebleu's, of the corpus; its signature
is kept. Also kept: exact matches, placeholders that were lost, and chrF by the number of words of the source. A run
that was stopped goes on at its newest checkpoint with --continue.
"""

import argparse
import math
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from benchmarks.learning.workers import goes_on
from benchmarks.record import WORK, Record, add_flags
from benchmarks.scores import summary
from engram import Trainer, load, register, spec
from engram.envs.translation import demonstrations
from engram.envs.translation.cleaning import lost
from engram.envs.translation.corpus import Corpus, find
from engram.errors import EngramError
from engram.play.translating import translate

ENV, ENVS, EVERY = "engram/Translate-v0", 8, 8
STARTS = {"twin": "start", "more": "grounded", "reward": "grounded", "constant": "grounded", "memory": "grounded"}
CELLS = (*dict.fromkeys(STARTS.values()), *STARTS)
BEAM = 4
BUCKETS = ((1, 3), (4, 6), (7, 99))  # words of the source
TEMPERATURE = 0.05
COMMON: dict[str, Any] = {
    "encoder": "tokens", "encoder.token_width": 64, "encoder.layers": 2, "encoder.width": 256, "head": "q",
    "discount": 1.0, "n_step": 3, "double": True, "learn_every": EVERY, "loss": "squared",
    "replay.batch_size": 128, "replay.capacity": 50_000, "replay.start": 1_000, "optimizer.clip_norm": 1.0,
    "optimizer.learning_rate": 1e-3, "target.every": 1, "target.rate": 0.01,
    "exploration.start": 0.05, "exploration.end": 0.02, "exploration.steps": 10_000,
    "conservative.temperature": TEMPERATURE, "conservative.on": "demonstrations",
}  # fmt: skip
SUPERVISED = {"loss": "nothing", "conservative.weight": 1.0, "demos.ratio": 0.99, "double": False}
WHOLE = 20  # steps of a target: nearly every sentence to its end, so that no target rests on a maximum over all tokens
GROUNDED = {"conservative.weight": 1.0, "demos.ratio": 0.99, "n_step": WHOLE}
REWARD = {"conservative.weight": 1.0, "demos.ratio": 0.5, "n_step": WHOLE, "optimizer.learning_rate": 3e-4}
# How the memory is read was chosen on 200 sentences of the split `valid`, number after number, of thirteen ways in all.
MEMORY = {
    "external": "votes", "external.neighbours": 8, "external.temperature": 0.02, "external.margin": 0.6,
    "external.half_confidence_distance": 0.3, "recall.played": False, "recall.demonstrations": 64,
    "recall.n_step": 20, "recall.weigh_by_error": False, "recall.max_memory_weight": 1.0,
}  # fmt: skip


@register("loss", "nothing")
@spec
class NothingSpec:
    """No loss of the return: what is left is the conservative term, the cross-entropy of the reference's token."""

    fits = ("number", "fixed", "quantiles")

    def __call__(self, predicted, target):
        return 0.0 * (predicted.mean + jnp.zeros_like(target.mean))


def settings(name: str) -> tuple[dict[str, Any], str]:
    """An agent's settings beside the common ones, and the reward that it learns."""
    fine = {"optimizer.learning_rate": REWARD["optimizer.learning_rate"]}
    return {
        "start": (SUPERVISED, "chrf"),
        "grounded": (GROUNDED, "chrf"),
        "twin": (SUPERVISED | fine, "chrf"),
        "more": (GROUNDED | fine, "chrf"),
        "reward": (REWARD, "chrf"),
        "constant": (REWARD, "constant"),
        "memory": (REWARD | MEMORY, "chrf"),
    }[name]


def learn(options: argparse.Namespace, corpus: Corpus, name: str, seed: int, record: Record) -> Path:
    """The run of one agent, begun or gone on with; its directory."""
    own, reward = settings(name)
    updates = options.more if name in STARTS else options.start
    place = WORK / "translation" / f"{Path(options.data).name}-{options.start}-{options.more}"
    folder = record.place(place / f"{name}-{seed}")
    new = {"env": ENV, "seed": seed, "env_args": {"data": options.data, "reward": reward}, "overrides": COMMON | own}
    if goes_on(folder, new):
        trainer = Trainer(run=folder, resume=True, progress=False)
    else:
        begun = {"start_from": str(learn(options, corpus, STARTS[name], seed, record))} if name in STARTS else {}
        changes = COMMON | own
        if name == "memory":
            changes["external.capacity"] = 1 << (sum(map(_tokens, corpus.encoded["train"].target)) - 1).bit_length()
        trainer = Trainer(
            ENV, "dqn", seed=seed, envs=ENVS, steps=updates * EVERY + 1_000, run=folder, progress=False,
            evaluate_every=0, env_args={"data": options.data, "reward": reward}, overrides=changes,
            demonstrations=str(references(options.data, reward)), **begun,
        )  # fmt: skip
    with trainer:
        trainer.learn()
    return folder


def _tokens(row: Any) -> int:
    return int((row > 0).sum())


def references(data: str, reward: str) -> Path:
    """The references as demonstrations of a reward."""
    digest = find(data).digest[:12]  # of other sentences or pieces there are others
    path = WORK / "translation" / f"{Path(data).name}-{digest}-{reward}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        demonstrations.write(path, data, reward)
    return path


def scored(pairs: Any, translations: list[str]) -> dict[str, Any]:
    """What sacrebleu and we say of translations."""
    from sacrebleu.metrics import BLEU, CHRF

    chrf, bleu = CHRF(), BLEU()
    references = [target for _, target in pairs]
    found: dict[str, Any] = {
        "chrf": chrf.corpus_score(translations, [references]).score,
        "bleu": bleu.corpus_score(translations, [references]).score,
        "exact": sum(map(str.__eq__, translations, references)) / len(pairs),
        "lost_placeholders": sum(lost(source, told) for (source, _), told in zip(pairs, translations, strict=True)),
        "placeholders": sum(lost(source, "") for source, _ in pairs),
        "sentences": len(pairs),
        "signature": [str(chrf.get_signature()), str(bleu.get_signature())],
    }
    for low, high in BUCKETS:
        which = [i for i, (source, _) in enumerate(pairs) if low <= len(source.split()) <= high]
        if which:
            told, right = [translations[i] for i in which], [references[i] for i in which]
            found[f"chrf_{low}_{high}"] = CHRF().corpus_score(told, [right]).score
    return found


def nearest(corpus: Corpus, split: str) -> list[str]:
    """The translation of the training source with the greatest cosine of words weighted by their rarity."""
    train = corpus.splits["train"]
    words = [Counter(source.lower().split()) for source, _ in train]
    seen = Counter(word for row in words for word in row)
    weight = {word: math.log(len(train) / count) + 1 for word, count in seen.items()}
    places: dict[str, list[tuple[int, float]]] = {}
    for number, row in enumerate(words):
        size = math.sqrt(sum((count * weight[word]) ** 2 for word, count in row.items()))
        for word, count in row.items():
            places.setdefault(word, []).append((number, count * weight[word] / size))
    found = []
    for source, _ in corpus.splits[split]:
        scores: Counter = Counter()
        for word, count in Counter(source.lower().split()).items():
            for number, share in places.get(word, ()):
                scores[number] += count * weight[word] * share
        found.append(train[scores.most_common(1)[0][0]][1] if scores else source)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a folder of `python -m engram.envs.translation`, or phrases")
    parser.add_argument("--split", default="test", choices=("valid", "test"), help="valid, to choose settings by")
    parser.add_argument("--agents", default=";".join(CELLS), help="names, with ; between them")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=4_000, help="updates of what others begin from")
    parser.add_argument("--more", type=int, default=2_000, help="updates of each agent from there")
    add_flags(parser, "translation")
    options = parser.parse_args()
    corpus = find(options.data)
    pairs = corpus.splits[options.split]
    about = {name: corpus.about.get(name) for name in ("source", "target", "from", "licence")}
    sizes = {name: len(each) for name, each in corpus.splits.items()}
    asked = {"start": options.start, "more": options.more, "common": COMMON, "split": options.split,
             "cells": {name: settings(name) for name in CELLS}}  # fmt: skip
    record = Record(options, {**asked, "corpus": {**about, **sizes, "pieces": len(corpus.vocabulary.pieces)}})
    if "nearest" not in record.parts:
        record.put("copy", scored(pairs, [source for source, _ in pairs]))
        record.put("nearest", scored(pairs, nearest(corpus, options.split)))
    try:
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            for name in options.agents.split(";"):
                if f"{name}, beam: seed {seed}" in record.parts:
                    continue
                agent = load(learn(options, corpus, name, seed, record))
                for told, beam in ((name, 1), (f"{name}, beam", BEAM)):
                    said = translate(agent, [source for source, _ in pairs], beam=beam, temperature=TEMPERATURE)
                    record.put(f"{told}: seed {seed}", scored(pairs, said))
                    print(told, seed, record.parts[f"{told}: seed {seed}"], file=sys.stderr, flush=True)
    except EngramError as problem:
        print(problem, file=sys.stderr)
        return problem.exit_code
    tell(record)
    return 0


def tell(record: Record) -> None:
    """The table, and the summary of the file."""
    columns = ("chrf", "bleu", "exact", "lost_placeholders", *(f"chrf_{low}_{high}" for low, high in BUCKETS))
    print(f"| agent | {' | '.join(columns)} |\n" + "|---" * (1 + len(columns)) + "|")
    totals: dict[str, Any] = {}
    for group in dict.fromkeys(part.partition(":")[0] for part in record.parts):
        rows = [row for part, row in record.parts.items() if part.partition(":")[0] == group]
        totals[group] = {name: summary([row[name] for row in rows]) for name in columns if name in rows[0]}
        cells = [
            f"{one['mean']:.3g} {[round(end, 2) for end in one['mean_interval_95'] or []] or ''}"
            for one in totals[group].values()
        ]
        print(f"| {group} | {' | '.join(cells)} |")
    record.summarize(totals)


if __name__ == "__main__":
    sys.exit(main())
