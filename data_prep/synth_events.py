"""What synthetic users do: journeys through the funnel, one block of users at a time.

A journey begins with a view. Its item is the best of a few candidates from one of the user's topics
(popularity proposes; taste, fashion and chance choose). Each later stage follows with a probability
that depends on the stage's own taste, and some time later. Nothing loops over users or events.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mbrec.data_prep.synth_formats import LogFormat, Stage
from mbrec.data_prep.synth_world import (
    TASTES,
    ZIPF_EXPONENT,
    Catalog,
    FloatArray,
    IndexArray,
    Shoppers,
    zipf_rank,
)

CANDIDATES = 6
LIKING = 1.3  # how strongly taste counts in every choice
FASHION_WIDTH = 0.3  # of the window
FASHION_FLOOR = 0.15  # what is left of an item's pull when it is out of fashion
CURIOSITY = 0.1  # share of journeys outside the user's topics
LEAD = 0.06  # journeys begin this share of the window early: some purchases have no view in the log
BIAS = {Stage.FAVORITE: -2.8, Stage.CART: -2.4, Stage.PURCHASE: -2.8}
DELAY = {  # mean, as a share of the window
    Stage.FAVORITE: 0.002,
    Stage.CART: 0.004,
    Stage.REMOVE: 0.03,
    Stage.PURCHASE: 0.02,
    Stage.COMMENT: 0.08,
}
# Views by hour of the day: a low at four, a high in the evening.
_HOURS = np.array([4, 2, 1, 1, 1, 1, 2, 3, 4, 5, 6, 6, 6, 7, 6, 6, 6, 6, 6, 8, 10, 11, 10, 7.0])
_BY_HOUR = np.concatenate([[0.0], np.cumsum(_HOURS) / _HOURS.sum()])

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Events:
    """Events of a block of users, grouped by user."""

    user: IndexArray  # (N,), position in the block
    item: IndexArray  # (N,), position in the catalog
    stage: npt.NDArray[np.int8]  # (N,)
    second: IndexArray  # (N,), from the start of the window


@dataclass(frozen=True)
class Journeys:
    """Journeys of a block of users, grouped by user; moments are shares of the window."""

    user: IndexArray  # (J,)
    item: IndexArray  # (J,)
    moment: npt.NDArray[np.float64]  # (J,), of the view


def make_events(
    counts: IndexArray,
    shoppers: Shoppers,
    catalog: Catalog,
    log: LogFormat,
    quirks: bool,
    rng: np.random.Generator,
) -> Events:
    """Exactly `counts[u]` events of every user u of a block.

    Journeys are a little fewer than the events need; repetitions of earlier events fill the gap.
    """
    per_journey = 2.6 if Stage.CLICK in log.codes else 1.42
    journeys = _journeys(
        np.maximum(1, (counts / per_journey).astype(np.int64)), shoppers, catalog, log, rng
    )
    events = _first(counts, _funnel(journeys, shoppers, catalog, log, rng))
    events = _repeat(counts, events, log.seconds, log.repeats_exact if quirks else 0.0, rng)
    if quirks and log.outside:
        early = rng.random(len(events.second)) < log.outside
        events.second[early] -= rng.integers(1, 60, early.sum()) * 86400 + log.seconds
    return events


def _journeys(
    counts: IndexArray,
    shoppers: Shoppers,
    catalog: Catalog,
    log: LogFormat,
    rng: np.random.Generator,
) -> Journeys:
    user = np.repeat(np.arange(len(counts)), counts)
    moment = rng.uniform(-LEAD, 1.0, len(user))
    first = np.cumsum(counts) - counts
    moment[first] = rng.uniform(0.0, 0.98, len(counts))  # nobody is left without an event
    day, part = np.divmod(moment * log.days, 1.0)
    moment = (day + np.interp(part, _BY_HOUR, np.linspace(0, 1, 25))) / log.days
    topic = _topics(user, moment, shoppers, catalog, rng)
    return Journeys(user, _items(user, moment, topic, shoppers, catalog, rng), moment)


def _topics(
    user: IndexArray,
    moment: npt.NDArray[np.float64],
    shoppers: Shoppers,
    catalog: Catalog,
    rng: np.random.Generator,
) -> IndexArray:
    """A topic for every journey; the second interest gains on the first as time goes by."""
    draw = rng.random(len(user))
    first = 0.6 - 0.2 * moment
    choice = (draw > first).astype(np.int64) + (draw > 0.85)
    topic = shoppers.topics[user, choice]
    curious = np.flatnonzero(rng.random(len(user)) < CURIOSITY)
    topic[curious] = catalog.draw_topics(len(curious), rng)
    return topic


def _items(
    user: IndexArray,
    moment: npt.NDArray[np.float64],
    topic: IndexArray,
    shoppers: Shoppers,
    catalog: Catalog,
    rng: np.random.Generator,
) -> IndexArray:
    """The best of a few candidates: popularity proposes; taste, fashion and chance choose."""
    start, stop = catalog.topic_start[topic], catalog.topic_start[topic + 1]
    best_item = np.zeros(len(user), dtype=np.int64)
    best = np.full(len(user), np.inf, dtype=np.float32)
    for _ in range(CANDIDATES):
        item = start + zipf_rank(rng.random(len(user)), stop - start, ZIPF_EXPONENT)
        off = (moment.astype(np.float32) - catalog.fashion[item]) / np.float32(FASHION_WIDTH)
        fashion = FASHION_FLOOR + np.exp(-0.5 * off * off)
        pull = np.exp(_liking(Stage.VIEW, user, item, shoppers, catalog)) * fashion
        # The first of exponential clocks with rates `pull`: chosen with probability ∝ pull.
        clock = rng.standard_exponential(len(user), dtype=np.float32) / pull
        sooner = clock < best
        best_item[sooner], best[sooner] = item[sooner], clock[sooner]
    return best_item


def _liking(
    stage: Stage, user: IndexArray, item: IndexArray, shoppers: Shoppers, catalog: Catalog
) -> FloatArray:
    column = TASTES.index(stage)
    match = np.einsum("nd,nd->n", shoppers.taste[user, column], catalog.style[item])
    liking: FloatArray = np.float32(LIKING) * match + catalog.appeal[item, column]
    return liking


def _funnel(
    journeys: Journeys,
    shoppers: Shoppers,
    catalog: Catalog,
    log: LogFormat,
    rng: np.random.Generator,
) -> Events:
    """The events of the journeys that fall into the window and are logged at all."""
    size, view = len(journeys.user), journeys.moment

    def follows(stage: Stage, push: Any) -> Mask:
        """Which journeys reach `stage`, drawn by liking and by what came before (`push`)."""
        liking = _liking(stage, journeys.user, journeys.item, shoppers, catalog)
        chance = 1.0 / (1.0 + np.exp(-(BIAS[stage] + liking + push)))
        mask: Mask = rng.random(size, dtype=np.float32) < chance
        return mask

    def later(stage: Stage) -> npt.NDArray[np.float64]:
        return DELAY[stage] * rng.standard_exponential(size) + 2 / log.seconds

    favorite = follows(Stage.FAVORITE, 0.0)
    favored = view + later(Stage.FAVORITE)
    cart = follows(Stage.CART, 0.5 * favorite)
    carted = np.where(favorite, favored, view) + later(Stage.CART)
    purchase = follows(Stage.PURCHASE, 0.5 * favorite + 1.5 * cart)
    purchased = np.where(cart, carted, np.where(favorite, favored, view)) + later(Stage.PURCHASE)
    remove = cart & ~purchase & (rng.random(size) < 0.4)
    comment = purchase & (rng.random(size) < 0.3)
    return _logged(
        journeys,
        log,
        {
            Stage.VIEW: (np.ones(size, bool), view),
            Stage.CLICK: (np.ones(size, bool), view + rng.integers(2, size=size) / log.seconds),
            Stage.FAVORITE: (favorite, favored),
            Stage.CART: (cart & (carted >= log.cart_from), carted),
            Stage.REMOVE: (remove, carted + later(Stage.REMOVE)),
            Stage.PURCHASE: (purchase, purchased),
            Stage.COMMENT: (comment, purchased + later(Stage.COMMENT)),
        },
    )


def _logged(
    journeys: Journeys,
    log: LogFormat,
    funnel: dict[Stage, tuple[Mask, npt.NDArray[np.float64]]],
) -> Events:
    stages = [stage for stage in funnel if stage in log.codes]
    happened = np.stack([funnel[stage][0] for stage in stages], axis=1)  # (J, S)
    moment = np.stack([funnel[stage][1] for stage in stages], axis=1)
    second = np.floor(moment * log.seconds).astype(np.int64)
    journey, column = np.nonzero(happened & (second >= 0) & (second < log.seconds))
    return Events(
        user=journeys.user[journey],
        item=journeys.item[journey],
        stage=np.array(stages, dtype=np.int8)[column],
        second=second[journey, column],
    )


def _first(counts: IndexArray, events: Events) -> Events:
    """At most the first `counts[u]` events of every user; journeys are in no order of time."""
    have = np.bincount(events.user, minlength=len(counts))
    position = np.arange(len(events.user)) - np.repeat(np.cumsum(have) - have, have)
    keep = position < counts[events.user]
    return Events(events.user[keep], events.item[keep], events.stage[keep], events.second[keep])


def _repeat(
    counts: IndexArray, events: Events, seconds: int, exact: float, rng: np.random.Generator
) -> Events:
    """The events and, for every user who is short of some, later repetitions of her own.

    Args:
        counts: How many events each user is to have.
        events: What they have, at least one each.
        seconds: The length of the window.
        exact: Share of the repetitions that keep the time, too.
        rng: The source of chance.
    """
    have = np.bincount(events.user, minlength=len(counts))
    missing = counts - have
    user = np.repeat(np.arange(len(counts)), missing)
    start = np.cumsum(have) - have
    source = start[user] + (rng.random(len(user)) * have[user]).astype(np.int64)
    second = events.second[source]
    wait = rng.random(len(user)) ** 3 * (seconds - second)  # mostly soon, always in the window
    wait[rng.random(len(user)) < exact] = 0
    return Events(
        user=np.concatenate([events.user, user]),
        item=np.concatenate([events.item, events.item[source]]),
        stage=np.concatenate([events.stage, events.stage[source]]),
        second=np.concatenate([events.second, second + wait.astype(np.int64)]),
    )
