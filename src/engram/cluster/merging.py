"""The k nearest of several answers. Exact: the answer is that of one shard which holds everything."""

from typing import NamedTuple

import numpy as np

NOTHING = np.inf  # the distance where there is no entry


class Found(NamedTuple):
    """What is nearest to each query in each table, nearest first. Axes [queries, tables, k].

    Between equal distances the entry that was written first comes first: a number that says nothing of shards.
    """

    distance: np.ndarray  # float64, squared; infinite where there is no entry
    written: np.ndarray  # int64: the number that the entry had among all that were ever written
    value: np.ndarray  # float32
    id: np.ndarray  # int32, of all shards together; -1 where there is no entry
    key: np.ndarray  # float32 [queries, tables, k, width], of width 0 where keys were not asked for


class Answer(NamedTuple):
    """A merged read, and whether it is of all."""

    found: Found
    silent: tuple[int, ...]  # shards that did not answer in time: nothing of theirs is in it


def nothing(queries: int, tables: int, k: int, width: int = 0) -> Found:
    """The answer of a shard without entries. `width` of keys, 0 where they are not asked for."""
    shape = (queries, tables, k)
    return Found(
        np.full(shape, NOTHING),
        np.zeros(shape, np.int64),
        np.zeros(shape, np.float32),
        np.full(shape, -1, np.int32),
        np.zeros((*shape, width), np.float32),
    )


def merged(answers: list[Found], k: int) -> Found:
    """The k nearest over all answers, which may hold fewer each."""
    whole = Found(*(np.concatenate(parts, axis=2) for parts in zip(*answers, strict=True)))
    if (lacking := k - whole.distance.shape[2]) > 0:
        queries, tables = whole.distance.shape[:2]
        return merged([whole, nothing(queries, tables, lacking, whole.key.shape[-1])], k)
    order = np.lexsort((whole.written, whole.distance), axis=-1)[..., :k]
    columns = (np.take_along_axis(column, order, 2) for column in whole[:-1])
    return Found(*columns, key=_keys_at(whole.key, order))


def _keys_at(key: np.ndarray, order: np.ndarray) -> np.ndarray:
    return np.take_along_axis(key, order[..., None], 2) if key.shape[-1] else key[:, :, : order.shape[2]]
