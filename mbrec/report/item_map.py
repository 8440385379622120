"""A map of the items: their embeddings in the two directions in which they differ most."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from mbrec.embeddings import as_factors
from mbrec.report.blocks import Block, Figure, Figures, Section, Text, shown
from mbrec.report.drawing import drawing
from mbrec.report.material import Material, Subject

_MOST = 20_000  # items that are drawn
_LEAD = (
    "Every dot is an item, placed by the first two principal components of its embedding for the "
    "target behavior; its color is the number of its training pairs, of all behaviors. Where color "
    "follows place, popularity is much of what the embedding says."
)

FloatArray = npt.NDArray[np.float64]


def item_map(material: Material) -> Section | None:
    """Every run that has embeddings; None where none has."""
    figures = [figure for subject in material.subjects for figure in _run(subject, material)]
    lacking = [s for s in material.subjects if _embeddings(s) is None]
    blocks: list[Block] = [Figures(figures)] if figures else []
    if not figures:
        return None
    if lacking:
        names = ", ".join(f"{s.letter} · {s.name} ({shown(s.run.model)})" for s in lacking)
        blocks.append(Text(f"Without embeddings: {names}."))
    return Section("map", "Map of the items", _LEAD, blocks)


def components(embeddings: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The first two principal components (I, 2) of (I, d), and their shares of the variance (2,).

    The sign of a component is chosen so that its largest weight is positive: by itself it is
    arbitrary, and the map would be a mirror image now and then. Cost: O(I d²) time.
    """
    centered = embeddings - embeddings.mean(0)
    variances, directions = np.linalg.eigh(centered.T @ centered)
    top = directions[:, ::-1][:, :2]
    largest = np.take_along_axis(top, np.abs(top).argmax(0)[None], 0)
    total = max(float(variances.sum()), 1e-12)
    return centered @ (top * np.where(largest < 0, -1, 1)), variances[::-1][:2].clip(0) / total


def _run(subject: Subject, material: Material) -> Iterator[Figure]:
    embeddings = _embeddings(subject)
    if embeddings is None or subject.dataset is None or embeddings.shape[1] < 2:
        return
    places, shares = components(embeddings)
    popularity = np.zeros(len(places), np.int64)
    for pairs in subject.dataset.train_relations().values():
        popularity += np.bincount(pairs.item_idx, minlength=len(places))
    order = np.argsort(popularity, kind="stable")  # the well-known ones on top
    order = order[np.unique(np.linspace(0, len(order) - 1, min(_MOST, len(order))).astype(int))]
    who = f"{subject.letter} · {subject.name}" if material.several else "Items"
    yield _drawing(who, places[order], shares, popularity[order])


def _drawing(
    who: str, places: FloatArray, shares: FloatArray, popularity: npt.NDArray[np.int64]
) -> Figure:
    from matplotlib.colors import LogNorm

    # The same panel by day and night: the scale goes from dark to bright.
    with drawing(height=4.2) as drawn:
        axes = drawn.axes
        axes.set_facecolor("#10141c")
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        drawn_as: Any = axes.scatter(
            *places.T,
            c=popularity + 1,
            s=np.clip(9_000 / max(len(places), 1), 2.5, 22),
            cmap=_scale(),
            norm=LogNorm(1, max(int(popularity.max()) + 1, 2)),
            linewidths=0,
            alpha=0.9,
            rasterized=True,
        )
        axes.set(xticks=[], yticks=[])
        axes.set_xlabel(f"first component, {shares[0]:.0%} of the variance".replace("%", " %"))
        axes.set_ylabel(f"second component, {shares[1]:.0%}".replace("%", " %"))
        bar = drawn.figure.colorbar(drawn_as, ax=axes, location="top", aspect=40, pad=0.02)
        bar.outline.set_visible(False)
        ticks = [10**p for p in range(8) if 10**p <= popularity.max() + 1]
        bar.set_ticks(ticks, labels=[f"{tick:,}" for tick in ticks], minor=False)
        bar.minorticks_off()
        bar.set_label("training pairs + 1")
    return drawn.named(who, f"{len(places):,} items.")


def _scale() -> Any:
    """Cividis without its darkest fifth, which could not be seen on the panel."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    return ListedColormap(colormaps["cividis"](np.linspace(0.22, 1, 256)))


def _embeddings(subject: Subject) -> FloatArray | None:
    """The items' embeddings (I, d) that rank the target, if the method has such."""
    factors = as_factors(subject.run.scorer(subject.run.behaviors[-1]))
    if factors is None:
        return None
    found: FloatArray = factors.item_emb.detach().cpu().numpy().astype(np.float64)
    return found
