"""What a synthetic shop is like: its items, its users, and what they want.

Every item belongs to one topic, has a place in the topic's Zipf order, a style (D numbers), a
moment at which it is most in fashion, and its own appeal for each later stage of the funnel. A user
has three topics and one taste vector per stage; the vectors share a part, and users of one segment
share most of theirs, so that what one behavior tells is of use, but not all there is, for another.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mbrec.data_prep.synth_formats import Stage

FloatArray = npt.NDArray[np.float32]
IndexArray = npt.NDArray[np.int64]

STYLE_SIZE = 6  # D
SEGMENTS = 16
TOPICS_PER_USER = 3
TASTES = (Stage.VIEW, Stage.FAVORITE, Stage.CART, Stage.PURCHASE)
ZIPF_EXPONENT = 0.85
SHARED_TASTE = 0.6  # weight of what the stages have in common; the rest is the stage's own
PERSONAL_TASTE = 0.5  # weight of what is the user's own, beside her segment's


@dataclass(frozen=True)
class Catalog:
    """The items, sorted by topic and, within a topic, by popularity."""

    topic_start: IndexArray  # (G + 1,), where each topic's items begin
    topic: npt.NDArray[np.int32]  # (I,)
    style: FloatArray  # (I, D)
    fashion: FloatArray  # (I,), share of the window at which the item is most wanted
    appeal: FloatArray  # (I, 4), per taste, added to the user's liking
    item_id: npt.NDArray[np.int32]  # (I,), the shop's

    def __len__(self) -> int:
        return len(self.topic)

    def draw_topics(self, count: int, rng: np.random.Generator) -> IndexArray:
        """Topics (count,), the first ones more often."""
        return zipf_rank(rng.random(count), np.asarray(len(self.topic_start) - 1), 0.5)


@dataclass(frozen=True)
class Shoppers:
    """Some users, and what each of them wants."""

    topics: IndexArray  # (U, 3), the most liked first
    taste: FloatArray  # (U, 4, D)


def make_catalog(items: int, rng: np.random.Generator) -> Catalog:
    """Draw the items: about 0.65 √I topics of uneven size."""
    topics = max(1, min(items, round(0.65 * items**0.5)))
    share = rng.dirichlet(np.full(topics, 4.0))
    sizes = 1 + rng.multinomial(items - topics, share)
    return Catalog(
        topic_start=np.concatenate([[0], np.cumsum(sizes)]),
        topic=np.repeat(np.arange(topics, dtype=np.int32), sizes),
        style=rng.standard_normal((items, STYLE_SIZE), dtype=np.float32),
        fashion=rng.uniform(-0.3, 1.3, items).astype(np.float32),
        appeal=0.6 * rng.standard_normal((items, len(TASTES)), dtype=np.float32),
        item_id=scattered_ids(items, rng).astype(np.int32),
    )


def make_segments(rng: np.random.Generator) -> FloatArray:
    """Taste vectors (S, 4, D) that the users of a segment have in common."""
    shape = (SEGMENTS, len(TASTES), STYLE_SIZE)
    own = rng.standard_normal(shape, dtype=np.float32)
    shared = rng.standard_normal((SEGMENTS, 1, STYLE_SIZE), dtype=np.float32)
    return _blend(shared, own)


def make_shoppers(
    users: int, catalog: Catalog, segments: FloatArray, rng: np.random.Generator
) -> Shoppers:
    """Draw some users."""
    topics = catalog.draw_topics(users * TOPICS_PER_USER, rng).reshape(users, TOPICS_PER_USER)
    own = rng.standard_normal((users, len(TASTES), STYLE_SIZE), dtype=np.float32)
    shared = rng.standard_normal((users, 1, STYLE_SIZE), dtype=np.float32)
    segment = segments[rng.integers(SEGMENTS, size=users)]
    taste = segment + PERSONAL_TASTE * _blend(shared, own)
    # Lengths as of one standard normal vector in D dimensions: an inner product has variance 1.
    taste /= np.linalg.norm(taste, axis=2, keepdims=True)
    return Shoppers(topics, taste)


def scattered_ids(count: int, rng: np.random.Generator) -> IndexArray:
    """Distinct ids (count,) in no order and with gaps, as shops have them."""
    return rng.permutation(count + count // 4 + 8)[:count] + 1


def zipf_rank(draw: npt.NDArray[np.float64], size: IndexArray, exponent: float) -> IndexArray:
    """Ranks 0 … size-1 with weights about (rank + 1)^-exponent, from uniform draws of its shape.

    The inverse of the continuous distribution: no table of weights, whatever the number of items.
    """
    power = 1.0 - exponent
    rank = ((np.power(size + 1.0, power) - 1.0) * draw + 1.0) ** (1.0 / power)
    bounded: IndexArray = np.minimum(rank.astype(np.int64) - 1, size - 1)
    return bounded


def _blend(shared: FloatArray, own: FloatArray) -> FloatArray:
    blend: FloatArray = SHARED_TASTE**0.5 * shared + (1 - SHARED_TASTE) ** 0.5 * own
    return blend
