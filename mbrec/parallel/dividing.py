"""Which trainings several processes can share."""

from __future__ import annotations

from mbrec.config import Settings
from mbrec.errors import UsageError
from mbrec.models import BUILT_IN
from mbrec.models.registry import find
from mbrec.parallel.team import Team


def check_dividable(settings: Settings, team: Team) -> None:
    """Refuse to train by several processes what they cannot learn apart.

    Raises:
        UsageError: It is of such a method, or has fewer columns than there are processes.
    """
    if team.ranks == 1:
        return
    reason = find(settings.method).undividable(settings.model)
    if reason:
        able = [name for name in BUILT_IN if not find(name).undividable(find(name).config())]
        raise UsageError(
            f"{settings.method} cannot be trained by {team.ranks} processes: {reason}.",
            f"Train it by one, or one of these by several: {', '.join(able)}; crgcn with "
            "model.normalize = false.",
        )
    size = getattr(settings.model, "size", team.ranks)
    if size < team.ranks:
        raise UsageError(
            f"model.size is {size}, less than the {team.ranks} processes.",
            "Each learns at least one column.",
        )
