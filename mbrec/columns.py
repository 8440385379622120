"""The names of columns, splits and edge types, said once."""

from __future__ import annotations

from typing import Final, Literal

USER_ID: Final = "user_id"  # the shop's id, string or integer
ITEM_ID: Final = "item_id"
USER_IDX: Final = "user_idx"  # ours: 0 … U-1
ITEM_IDX: Final = "item_idx"  # ours: 0 … I-1
BEHAVIOR: Final = "behavior"
TIMESTAMP: Final = "timestamp"  # Unix seconds, UTC; null where the source has none
SPLIT: Final = "split"
RANK: Final = "rank"  # 1 is best
SCORE: Final = "score"

USER: Final = "user"  # node type
ITEM: Final = "item"  # node type
GLOBAL: Final = "global"  # the deduplicated union of all behaviors, as a relation

Split = Literal["train", "valid", "test"]
SPLITS: Final[tuple[Split, ...]] = ("train", "valid", "test")
VISIBLE: Final[tuple[Split, ...]] = ("train", "valid")  # what chooses never sees a test row
