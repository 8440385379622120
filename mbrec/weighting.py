"""Task weighting: how the task losses of the behaviors add up to what is minimized.

A method's terms called "<loss>/<behavior>" are its task losses; all others are added as they are.
The weights of a learned weighting are kept apart from the method's own: they have an optimizer of
their own, and a place of their own in a checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from mbrec.config import TrainConfig
from mbrec.errors import TrainingError, UsageError
from mbrec.models.base import check_names
from mbrec.parallel.team import ALONE, Team

Terms = Mapping[str, Tensor]
SMALLEST = 1e-3  # of a GradNorm weight: a step may not carry it below zero


class TaskWeighting(nn.Module):
    """Equal weights, or fixed ones: Σ_k c_k L_k + regularizers.

    Args:
        factors: Behavior → c_k, for every behavior.
    """

    def __init__(self, factors: Mapping[str, float]) -> None:
        super().__init__()
        self.factors = dict(factors)
        self._order = {behavior: place for place, behavior in enumerate(factors)}
        self.learned = nn.ParameterList()  # one scalar per behavior, in learned weightings
        self.optimizer: torch.optim.Optimizer | None = None

    def total(self, terms: Terms, step: int) -> Tensor:
        """What a step minimizes.

        Args:
            terms: What the method's `losses` returned; a behavior may be absent.
            step: The step's number in its epoch, from 1.

        Raises:
            TrainingError: The terms break the contract of `TrainedMethod.losses`.
        """
        if all(factor == 1 for factor in self.factors.values()):
            return torch.stack(list(terms.values())).sum()
        tasks = self._tasks(terms)
        factors = {term: self.factors[behavior] for behavior, term in tasks.items()}
        return torch.stack([factors.get(n, 1.0) * term for n, term in terms.items()]).sum()

    def step(self) -> None:
        """Move the weights by their gradients; after `backward` of the total."""
        if self.optimizer is not None:
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)

    def weights(self) -> dict[str, float]:
        """Behavior → the weight of its task loss now."""
        return dict(self.factors)

    def _learn(self, start: Sequence[float], lr: float) -> None:
        # Scalars, not one vector: Adam leaves those alone that have no gradient, so a behavior that
        # is absent from a batch keeps its weight.
        self.learned.extend(nn.Parameter(torch.tensor(value)) for value in start)
        self.optimizer = torch.optim.Adam(self.learned, lr=lr)

    def _of(self, behavior: str) -> nn.Parameter:
        parameter = self.learned[self._order[behavior]]
        assert isinstance(parameter, nn.Parameter)
        return parameter

    def _tasks(self, terms: Terms) -> dict[str, str]:
        """Behavior → the name of its task loss, of the behaviors in the batch."""
        tasks: dict[str, str] = {}
        for name in terms:
            behavior = name.partition("/")[2]
            if behavior in tasks:
                raise TrainingError(
                    f"The method gives {behavior!r} two task losses, {tasks[behavior]} and {name}.",
                    'Its losses may name one term "<loss>/<behavior>" per behavior.',
                )
            if behavior in self.factors:
                tasks[behavior] = name
        if not tasks:
            raise TrainingError(
                f"The method has no task loss to weight, only {', '.join(terms)}.",
                "Use train.weighting = equal, without train.task_weights.",
            )
        return tasks


class UncertaintyWeighting(TaskWeighting):
    """Homoscedastic uncertainty (Kendall, Gal and Cipolla, CVPR 2018, section 3).

        Σ_k c_k (exp(-s_k) L_k + s_k / 2) + regularizers,   s_k = ln σ_k²

    This is the paper's form for a classification likelihood (its equation 10): BPR is the negative
    log-likelihood of the answer to "which of two items?", with the scores divided by σ². (The form
    for regression has another ½ before the loss.) s_k is learned beside the method's weights, from
    0, i.e. from a weight of 1; at rest the weight of a behavior is exp(-s_k) = 1 / (2 L_k): the
    lower its loss, the higher its weight. Weights do not add up to K, so they grow against the
    regularizers as the losses fall.

    Args:
        factors: Behavior → c_k > 0; a factor scales a behavior's whole likelihood, so that it
            shows in the weight at rest, c_k / (2 L_k).
        lr: Learning rate of s_k, by Adam.
    """

    def __init__(self, factors: Mapping[str, float], lr: float) -> None:
        super().__init__(factors)
        self._learn([0.0] * len(factors), lr)

    def total(self, terms: Terms, step: int) -> Tensor:
        """See `TaskWeighting.total`; its backward also gives s_k their gradients."""
        parts = dict(terms)
        for behavior, name in self._tasks(terms).items():
            log_variance = self._of(behavior)
            likelihood = torch.exp(-log_variance) * terms[name] + log_variance / 2
            parts[name] = self.factors[behavior] * likelihood
        return torch.stack(list(parts.values())).sum()

    def weights(self) -> dict[str, float]:
        """Behavior → c_k exp(-s_k)."""
        variances = torch.stack([s.detach() for s in self.learned]).neg().exp().tolist()
        return {b: c * w for (b, c), w in zip(self.factors.items(), variances, strict=True)}


class GradNorm(TaskWeighting):
    """GradNorm (Chen et al., ICML 2018, algorithm 1).

        Σ_k w_k L_k + regularizers,   w_k ≥ 0 learned by descent on
        Σ_k |G_k - Ḡ r_k^α c_k / c̄|,   G_k = w_k ‖∇_W L_k‖₂,
        r_k = (L_k / L_k(0)) / mean_j (L_j / L_j(0))

    W are the weights that the behaviors share, Ḡ is the mean of G over the behaviors of the batch
    and a constant of the descent, and the weights are scaled to keep their sum of K after each
    step. The derivative by w_k is ± ‖∇_W L_k‖ in closed form, so gradients of gradients are not
    needed. Deviations: it is done at every `every`-th step only, as it costs one more backward
    pass per behavior; the goal is c_k times as large for a behavior with the factor c_k (a factor
    on the loss itself would be balanced away); a step leaves no weight below 0.001, but the scaling
    that comes after may make one a little less.

    Args:
        factors: Behavior → c_k > 0.
        lr: Learning rate of w_k, by Adam.
        shared: W.
        alpha: How strongly behaviors that learn slowly are favored; 0: equal norms.
        every: Steps from one update to the next.
        team: The processes that each have some columns of W.
    """

    initial: Tensor  # (K,) L_k(0), NaN before the behavior was seen

    def __init__(
        self,
        factors: Mapping[str, float],
        lr: float,
        shared: Iterable[nn.Parameter],
        alpha: float,
        every: int,
        team: Team = ALONE,
    ) -> None:
        super().__init__(factors)
        mean = sum(factors.values()) / len(factors)
        self._goal = {behavior: factor / mean for behavior, factor in factors.items()}
        self._learn(list(self._goal.values()), lr)
        self._shared, self._alpha, self._every = list(shared), alpha, every
        self._team = team
        self.register_buffer("initial", torch.full((len(factors),), float("nan")))

    def total(self, terms: Terms, step: int) -> Tensor:
        """See `TaskWeighting.total`; at every n-th step it also gives w_k their gradients."""
        tasks = self._tasks(terms)
        if (step - 1) % self._every == 0:
            self._measure({behavior: terms[name] for behavior, name in tasks.items()})
        parts = dict(terms)
        for behavior, name in tasks.items():
            parts[name] = self._of(behavior).detach() * terms[name]
        return torch.stack(list(parts.values())).sum()

    @torch.no_grad()
    def step(self) -> None:
        """See `TaskWeighting.step`."""
        moved = [weight for weight in self.learned if weight.grad is not None]
        if not moved:
            return
        before = torch.stack(moved).sum()
        super().step()
        for weight in moved:
            weight.clamp_(min=SMALLEST)
        scale = before / torch.stack(moved).sum()
        for weight in moved:
            weight.mul_(scale)

    def weights(self) -> dict[str, float]:
        """Behavior → w_k."""
        values = torch.stack([weight.detach() for weight in self.learned]).tolist()
        return dict(zip(self.factors, values, strict=True))

    def _measure(self, tasks: Mapping[str, Tensor]) -> None:
        """Give the weights of the batch's behaviors their gradients."""
        norms = torch.stack([self._norm(loss) for loss in tasks.values()])
        losses = torch.stack(list(tasks.values())).detach()
        weights = torch.stack([self._of(behavior).detach() for behavior in tasks])
        places = torch.tensor([self._order[b] for b in tasks], device=losses.device)
        first = self.initial[places]
        first = torch.where(first.isnan(), losses, first)
        self.initial[places] = first
        rate = losses / first
        goal = losses.new_tensor([self._goal[behavior] for behavior in tasks])
        wanted = (weights * norms).mean() * (rate / rate.mean()) ** self._alpha * goal
        gradients = norms * torch.sign(weights * norms - wanted)
        for behavior, gradient in zip(tasks, gradients, strict=True):
            self._of(behavior).grad = gradient

    def _norm(self, loss: Tensor) -> Tensor:
        """‖∇_W L‖₂."""
        gradients = torch.autograd.grad(loss, self._shared, retain_graph=True, allow_unused=True)
        norms = [torch.linalg.vector_norm(g) for g in gradients if g is not None]
        own = torch.linalg.vector_norm(torch.stack(norms)) if norms else loss.new_zeros(())
        return own if self._team.ranks == 1 else self._team.sum(own.square()).sqrt()


def make_weighting(
    config: TrainConfig,
    behaviors: Sequence[str],
    shared: Iterable[nn.Parameter],
    team: Team = ALONE,
) -> TaskWeighting:
    """The task weighting of `config`.

    Args:
        config: Settings.
        behaviors: All behaviors.
        shared: The weights that they share.
        team: The processes that each have some columns of these.

    Raises:
        UsageError: `task_weights` names an unknown behavior, or gives factors that make no sense.
    """
    check_names("train.task_weights", config.task_weights, behaviors)
    factors = {behavior: config.task_weights.get(behavior, 1.0) for behavior in behaviors}
    if not any(factors.values()):
        raise UsageError(
            "train.task_weights is 0 for every behavior.", "Then there is nothing to learn."
        )
    if config.weighting == "equal":
        return TaskWeighting(factors)
    off = [behavior for behavior, factor in factors.items() if factor == 0]
    if off:
        raise UsageError(
            f"train.weighting = {config.weighting} learns the weights, and train.task_weights "
            f"fixes {', '.join(off)} at 0.",
            "Give factors above 0, or use train.weighting = equal.",
        )
    if config.weighting == "uncertainty":
        return UncertaintyWeighting(factors, config.weighting_lr)
    return GradNorm(
        factors, config.weighting_lr, shared, config.gradnorm_alpha, config.gradnorm_every, team
    )
