"""What a method has to offer to be trained, evaluated and exported by mbrec."""

from __future__ import annotations

import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, PositiveInt
from torch import Tensor, nn

from mbrec.engines import Engine
from mbrec.errors import TrainingError, UsageError
from mbrec.graph import Pairs
from mbrec.memory import require_memory
from mbrec.models.terms import PerBehavior as PerBehavior
from mbrec.models.terms import base_l2 as base_l2
from mbrec.models.terms import bpr_terms as bpr_terms
from mbrec.models.terms import gather as gather
from mbrec.models.terms import near_identity as near_identity
from mbrec.models.terms import pair_scores as pair_scores
from mbrec.parallel.columns import Columns
from mbrec.parallel.team import ALONE, Team
from mbrec.propagation import Relation
from mbrec.sampling import Batch
from mbrec.scoring import Scorer

Initializer = Literal["normal", "xavier"]

Times = npt.NDArray[np.int64]  # (E,)


class MethodConfig(BaseModel):
    """Base of the settings of a method: frozen; unknown keys and numbers without end are errors.

    A table is a setting per behavior: before the method is built, its keys are checked against the
    dataset's behaviors.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


class EmbeddingConfig(MethodConfig):
    """Base of the settings of a method that learns embeddings of users and items."""

    size: PositiveInt = 64
    """d, the embedding size."""

    initializer: Initializer = "xavier"
    """Initial embeddings: "normal" N(0, 0.1²) or "xavier"."""

    l2: PerBehavior = 1e-4
    """β, weight of ½ ‖e⁰‖² of the batch's rows; or a table behavior = weight."""


@dataclass(frozen=True)
class Context:
    """What a method may know: the training part of a dataset, and nothing of the held-out parts."""

    behaviors: tuple[str, ...]  # cascade order, target last
    num_users: int
    num_items: int
    train: Mapping[str, Pairs]  # behavior → distinct training pairs
    engine: Engine | None  # message passing; None for methods that need none
    generator: torch.Generator  # for initial weights
    device: torch.device
    times: Mapping[str, Times] = field(default_factory=dict)
    """Behavior → Unix seconds of its training pairs, in their order, where the log has them; the
    smallest int64 where a single row has none."""
    team: Team = ALONE  # the processes that train together

    @property
    def target(self) -> str:
        """The last behavior of the cascade."""
        return self.behaviors[-1]

    @property
    def auxiliaries(self) -> tuple[str, ...]:
        """All behaviors but the target, in cascade order."""
        return self.behaviors[:-1]

    def columns(self, size: int) -> Columns:
        """Which of `size` columns of an embedding this process learns: all, where it is alone."""
        return Columns(self.team, size)

    def relation(self, name: str) -> Relation:
        """A behavior's relation, or the merged one, ready to propagate."""
        if self.engine is None:
            raise TrainingError("This method needs an engine for message passing.")
        return Relation.of(name, self.engine)


class Method(ABC):
    """A way to score every item for every user and behavior."""

    @abstractmethod
    def scorers(self) -> Mapping[str, Scorer]:
        """Behavior → what scores it; of the kinds of `mbrec.scoring`, so that a run can hold it."""


class TrainedMethod(nn.Module, Method):
    """A method that learns by gradient steps on batches of triples.

    A step is `losses(propagate(), batch)`: one pass over the whole graph, then the batch's rows.

    A method whose `Entry` allows several processes sets `columns`, and learns its own columns of
    its `shared_parameters` alone; its `Factors` have these columns, too. All other weights each
    process learns from a share of the batch.
    """

    columns = Columns()

    def divided(self) -> dict[str, Columns]:
        """The parameters, by name, of which this process has some columns only."""
        if not self.columns.split:
            return {}
        tables = {id(table) for table in self.shared_parameters()}
        return {n: self.columns for n, part in self.named_parameters() if id(part) in tables}

    def join_gradients(self) -> None:
        """After `backward`, in several processes: add up what they have learned apart.

        Weights that all of them have got a gradient from this one's share of the batch alone; their
        sum is the same to the last bit everywhere, and so the weights stay.
        """
        if not self.columns.split:
            return
        divided = self.divided()
        gradients = [
            part.grad
            for name, part in self.named_parameters()
            if name not in divided and part.grad is not None
        ]
        for gradient, total in zip(gradients, self.columns.team.sums(gradients), strict=True):
            gradient.copy_(total)

    def parts(self) -> Mapping[str, TrainedMethod]:
        """Name → method, where this one is made of several that share no weights.

        All weights are in one of them. Each is validated by itself and kept at its own best epoch.
        None by default: then the method is kept as a whole.
        """
        return {}

    def learn(self, parts: Collection[str]) -> None:
        """Called before an epoch: only these of its parts are to have losses in it.

        Does nothing by default.
        """

    @abstractmethod
    def propagate(self) -> Any:
        """The embeddings of all nodes that `losses` and `factors` read."""

    @abstractmethod
    def losses(self, state: Any, batch: Batch) -> dict[str, Tensor]:
        """Named terms (scalars, already weighted) whose sum is minimized.

        A term called "<loss>/<behavior>" is the task loss of that behavior, at most one for each:
        task weighting acts on these. All others ("cpa", "l2") are regularizers.

        Args:
            state: What `propagate` returned.
            batch: Behavior → its triples; a behavior may be absent.
        """

    def shared_parameters(self) -> list[nn.Parameter]:
        """The weights that all behaviors learn from, where GradNorm compares their gradients.

        By default the base embedding tables: all parameters called `user_emb` or `item_emb`, or
        within a list of that name. A method that has none gives all its parameters.
        """
        tables = [
            parameter
            for name, parameter in self.named_parameters()
            if name.partition(".")[0] in ("user_emb", "item_emb")
        ]
        return tables or list(self.parameters())

    def gate_values(self) -> Mapping[str, Mapping[str, Tensor]]:
        """Behavior → gate → its values in (0, 1) now, of all nodes or a sample of them.

        The health watch asks for them after every validation. Nothing by default.
        """
        return {}

    def calibrate(self, valid: Mapping[str, Pairs], metric: str, k: int) -> dict[str, Any]:
        """Called once after training, with the best weights: choose what validation rows choose.

        Args:
            valid: Behavior → its validation rows, for the behaviors that have such.
            metric: Of `mbrec.metrics`, without its K.
            k: The list length.

        Returns:
            What was chosen, as plain values for `run.json`. Nothing by default.
        """
        return {}

    def cross_fitted(self) -> Mapping[str, Scorer]:
        """After `calibrate`: behavior → what ranks its validation rows, where it learned from them.

        Each user is ranked by what other users have taught (`mbrec.cross_fitting`): the scorers of
        `scorers` know her rows. Nothing by default: these rank the validation rows, too.
        """
        return {}

    def adopt(self, calibration: Mapping[str, Any]) -> None:
        """Take over what `calibrate` chose in another training of the same method.

        Args:
            calibration: What it returned there.

        Raises:
            ArtefactError: It is not what this method returns.
        """

    def begin_epoch(self, epoch: int, random: torch.Generator) -> None:
        """Called before the first step of an epoch, from 1 on.

        For methods that draw something themselves (views, noise, users): `random` is on the
        method's device and seeded by the run's seed and the epoch, so a resumed training draws the
        same. No other source of randomness may be used, and nothing but `random` and `epoch` may
        decide what is drawn here: where a training was stopped within an epoch, this is called
        again with the weights of the stop. Does nothing by default.
        """


@dataclass(frozen=True)
class Entry:
    """A method as the registry knows it; every method's module has one, called `ENTRY`."""

    config: type[MethodConfig]
    build: Callable[[Any, Context], Method]
    needs_engine: bool = True  # whether it passes messages
    train: Mapping[str, Any] = field(default_factory=dict)  # its defaults of [train]
    undividable: Callable[[Any], str] = lambda config: "its columns cannot be learned apart"
    """Why several processes cannot learn columns apart, with these settings; empty if they can."""


def embedding_table(
    count: int,
    size: int,
    initializer: Initializer,
    generator: torch.Generator,
    columns: Columns | None = None,
) -> nn.Parameter:
    """A table of initial embeddings, (count, size), or own columns of it.

    Args:
        count: Rows.
        size: d.
        initializer: "normal": N(0, 0.1²), as LightGCN; "xavier": uniform Glorot, as CRGCN.
        generator: Source of randomness.
        columns: Of `size`; all by default.

    Raises:
        TrainingError: It does not fit into memory, with its gradient and the two moments of Adam.
            Whether all weights of a method fit together is checked once they are there: see
            `mbrec.memory.require_learning`.
    """
    columns = columns or Columns(size=size)
    needed = 4 * count * columns.count * torch.float32.itemsize
    require_memory(
        needed, f"Learning {count:,} × {columns.count:,} embeddings", "Lower model.size."
    )
    bound = math.sqrt(3.0) * math.sqrt(2.0 / (count + size))  # of Glorot

    def fill(part: Tensor) -> None:
        if initializer == "normal":
            part.normal_(0.0, 0.1, generator=generator)
        else:
            part.uniform_(-bound, bound, generator=generator)

    return nn.Parameter(columns.drawn(count, fill))


def node_embeddings(
    config: EmbeddingConfig, context: Context, columns: Columns | None = None
) -> tuple[nn.Parameter, nn.Parameter]:
    """The initial embeddings of all users (U, d) and items (I, d), or own columns of them.

    Raises:
        TrainingError: See `embedding_table`.
    """
    user_emb, item_emb = (
        embedding_table(count, config.size, config.initializer, context.generator, columns)
        for count in (context.num_users, context.num_items)
    )
    return user_emb, item_emb


def check_names(setting: str, given: Iterable[str], behaviors: Sequence[str]) -> None:
    """Refuse a setting per behavior that names one which is not there.

    Raises:
        UsageError: With the nearest name.
    """
    for name in given:
        if name not in behaviors:
            near = difflib.get_close_matches(name, behaviors, n=1)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            raise UsageError(
                f"{setting} names {name!r}, which is no behavior of the dataset.",
                f"{hint}There are: {', '.join(behaviors)}.",
            )


def per_behavior(setting: PerBehavior, behaviors: Sequence[str], name: str) -> dict[str, float]:
    """The weight of every behavior; 0 of one that a table does not name.

    Args:
        setting: One weight for all, or a table.
        behaviors: All of them.
        name: What the setting is called, for the error.

    Raises:
        UsageError: The table names an unknown behavior.
    """
    if not isinstance(setting, Mapping):
        return dict.fromkeys(behaviors, setting)
    check_names(name, setting, behaviors)
    return {behavior: setting.get(behavior, 0.0) for behavior in behaviors}


def layers_of(setting: Sequence[int], behaviors: Sequence[str]) -> tuple[int, ...]:
    """One number of layers per behavior; empty means 1, 2, … K; one number serves all.

    Raises:
        UsageError: The list has another length than the behaviors.
    """
    if not setting:
        return tuple(range(1, len(behaviors) + 1))
    if len(setting) == 1:
        return tuple(setting) * len(behaviors)
    if len(setting) != len(behaviors):
        raise UsageError(
            f"model.layers has {len(setting)} numbers for {len(behaviors)} behaviors "
            f"({', '.join(behaviors)}).",
            "Give one number per behavior, or a single one for all.",
        )
    return tuple(setting)
