"""Who has what: environments of actors, entries of shards."""

import numpy as np

from engram.errors import SpecError


def shares(envs: int, actors: int) -> list[slice]:
    """The environments of each actor, as many for each. Raises SpecError where they cannot be shared equally."""
    if actors < 1 or envs % actors:
        raise SpecError(
            f"{envs} environments were asked for with {actors} actors, who share them equally; set --envs to a "
            f"multiple of {max(actors, 1)}"
        )
    each = envs // actors
    return [slice(actor * each, (actor + 1) * each) for actor in range(actors)]


def shard_of(hashes: np.ndarray, shards: int) -> np.ndarray:
    """The shard of each entry, by the hash of its situation [entries, 2]: one that comes again finds the same shard."""
    # The second word: the first chooses the bucket of an index elsewhere, and both are uniform.
    return (hashes[:, 1] % np.uint32(shards)).astype(np.int64)


def places_of(places: int, shards: int, neighbours: int) -> int:
    """Places of each table that a shard has. Raises SpecError where a table has fewer places than there are shards."""
    each = places // shards
    if each < 1 or each * shards < neighbours:
        raise SpecError(
            f"{shards} shards leave {each} entries to each table of {places}, and a read wants {neighbours} of all; "
            f"raise external.capacity, or take fewer shards"
        )
    return each
