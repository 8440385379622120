"""`mbrec doctor`: what is here, what works, and what to do about what does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mbrec.cli.console import show, show_json

if TYPE_CHECKING:
    from mbrec.doctor import Report


@click.command()
@click.option("--json", "as_json", is_flag=True, help="The report as JSON.")
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    r"""Say which versions and devices are here, and what to do about what is not.

    Each engine really propagates over a small graph, with gradients, on every device. The exit code
    is 0 if training is possible on some device, else 1.

    \b
    Example:
      mbrec doctor
    """
    from mbrec.doctor import examine

    report = examine()
    if as_json:
        show_json(report.to_dict())
    else:
        show(_text(report))
    context.exit(0 if report.ready else 1)


def _text(report: Report) -> str:
    from mbrec.cli.console import one_line
    from mbrec.version import __version__

    width = max(len(finding.name) for finding in report.findings)
    lines = [f"mbrec {__version__}"]
    for finding in report.findings:
        lines.append(f"  {finding.state:<8} {finding.name:<{width}}  {one_line(finding.detail)}")
        if finding.remedy:
            lines.append(f"  {'':<8} {'':<{width}}  → {finding.remedy}")
    if report.ready:
        lines.append(f"Training is possible: {', '.join(report.trains_with)}.")
    else:
        lines.append("Training is not possible here: see the problems above.")
    return "\n".join(lines)
