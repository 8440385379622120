"""Ranked lists as rows of a table, with the shop's own ids."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from torch import Tensor

from mbrec.columns import BEHAVIOR, ITEM_ID, RANK, SCORE, USER_ID
from mbrec.ranking import TopK


class Ids(NamedTuple):
    """The shop's ids of users and items, by position."""

    users: pa.Array
    items: pa.Array


def schema_of(ids: Ids) -> pa.Schema:
    """The columns user_id, behavior, rank, item_id and score."""
    return pa.schema(
        [
            (USER_ID, ids.users.type),
            (BEHAVIOR, pa.string()),
            (RANK, pa.int32()),
            (ITEM_ID, ids.items.type),
            (SCORE, pa.float32()),
        ]
    )


def rows_of(ids: Ids, behavior: str, users: Tensor, best: TopK) -> pa.Table:
    """The rows of some users' lists."""
    items, scores = best.items.cpu().numpy(), best.scores.cpu().numpy()
    filled = items >= 0
    row, rank = np.nonzero(filled)
    columns = [
        ids.users.take(pa.array(users.numpy()[row])),
        pa.repeat(pa.scalar(behavior), len(row)),
        pa.array(rank + 1, pa.int32()),
        ids.items.take(pa.array(items[filled])),
        pa.array(scores[filled]),
    ]
    return pa.table(columns, schema=schema_of(ids))
