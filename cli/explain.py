"""`mbrec explain`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mbrec.cli.options import PATH, data_option

if TYPE_CHECKING:
    from mbrec.cli.plots import Plots
    from mbrec.explain import Explanation
    from mbrec.explain.explanation import Side


@click.command("explain")
@click.argument("run", type=PATH)
@click.option("--user", required=True, metavar="ID", help="The shop's id of the user.")
@click.option("--item", required=True, metavar="ID", help="The shop's id of the item.")
@click.option("--behavior", metavar="B", help="Whose list.  [default: the target's]")
@click.option(
    "--side",
    type=click.Choice(["user", "item"]),
    default="user",
    show_default=True,
    help="Whose neighbors to name where embeddings are propagated: the user's items, or the users "
    "of the item.",
)
@click.option(
    "--top",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="Neighbors shown; --json has all.",
)
@data_option
@click.option("--json", "as_json", is_flag=True, help="Print all shares as JSON.")
def command(
    run: Path,
    user: str,
    item: str,
    behavior: str | None,
    side: Side,
    top: int,
    data: Path | None,
    as_json: bool,
) -> None:
    r"""Say which behaviors and neighbors carried a score of RUN, share by share.

    The shares add up to the score; one may be negative, or larger than the whole. They are exact
    where scores are sums over the user's history, and for LightGCN, CRGCN, BiGEL and BiGEL+, whose
    propagation is linear. For other methods with embeddings the user's is fitted by those of her
    items, and what is left over is a share of its own. docs/explain.md has the equations.

    \b
    mbrec explain runs/ub --user 100 --item 4198227
    mbrec explain runs/ub --user 100 --item 4198227 --behavior cart --side item --json
    """
    from mbrec.cli.console import show, show_json
    from mbrec.cli.plots import Plots
    from mbrec.explain import explain_run

    explanation = explain_run(run, user, item, behavior=behavior, data=data, side=side)
    if as_json:
        show_json(explanation.summary())
    else:
        show(explanation_text(explanation, top, Plots.for_output()))


def explanation_text(explanation: Explanation, top: int, plots: Plots) -> str:
    """The score, its shares by part and behavior, by layer, and the largest neighbors'."""
    place = "done in training, not ranked"
    if explanation.rank is not None:
        place = f"rank {explanation.rank:,} of {explanation.ranked:,}"
    parts, neighbors = explanation.parts(), explanation.neighbors()
    blocks = [
        f"{explanation.behavior}: user {explanation.user}, item {explanation.item}\n"
        f"score {explanation.score:.6g}, {place}   ({explanation.model}; {explanation.how})",
        _table(
            "Share of the score by part and behavior",
            [(_label(row), row["value"]) for row in parts],
            explanation.score,
            plots,
        ),
    ]
    layers = [(f"layer {row['layer']}", row["value"]) for row in explanation.layers()]
    if len(layers) > 1:
        blocks.append(_table("Of that, propagated by", layers, explanation.score, plots))
    if neighbors and top:
        rows = [(f"{n['kind']} {n['id']} {_behaviors(n)}", n["value"]) for n in neighbors[:top]]
        title = f"Neighbors, the largest {len(rows)} of {len(neighbors)}"
        blocks.append(_table(title, rows, explanation.score, plots))
    return "\n\n".join(blocks)


def _table(title: str, rows: list[tuple[str, float]], score: float, plots: Plots) -> str:
    """One line per share: value, percent of the score's size, and a bar."""
    first = max(len(title), *(len(name) + 2 for name, _ in rows))
    most = max(abs(value) for _, value in rows) or 1.0
    lines = [f"{title:<{first}}{'value':>11}{'of |score|':>12}"]
    for name, value in rows:
        percent = f"{value / abs(score):.1%}" if score else "-"
        bar = ("-" if value < 0 else " ") + plots.bar(abs(value) / most, 16).rstrip()
        lines.append(f"{'  ' + name:<{first}}{value:>11.5f}{percent:>12} {bar}".rstrip())
    return "\n".join(lines)


def _label(row: dict[str, Any]) -> str:
    if row["behavior"] and row["behavior"] not in row["part"]:
        return f"{row['part']}, {row['behavior']}"
    return str(row["part"])


def _behaviors(neighbor: dict[str, Any]) -> str:
    """The behaviors that link a neighbor, each once, those with the larger shares first."""
    shares = neighbor["behaviors"]
    ordered = sorted(shares, key=lambda name: -abs(shares[name]))
    names = dict.fromkeys(part for name in ordered for part in name.split(" + ") if part)
    return f"({', '.join(names)})"
