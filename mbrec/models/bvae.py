"""BVAE (Rao et al., "Behavior-aware Variational Autoencoder", RecSys 2023).

An autoencoder of users: the row of everything a user has touched, x, gives the mean of a latent
vector; her row of behavior k, x^(k), gives its variance for that behavior; a linear decoder per
behavior gives the scores of all items. No embedding of a user is learned.

    μ        = W_μ drop(x / ‖x‖) + b_μ                                      shared by all behaviors
    log σ_k² = W_k drop(x^(k) / ‖x^(k)‖) + b_k                                per behavior
    z_k      = μ + ε_k ⊗ σ_k,  ε_k ~ N(0, I)                                   in training only
    z        = Σ_k z_k
    π_k      = softmax(V_k z + c_k)
    L = Σ_k mean_u [ -½ t_k⁻¹ Σ_i x^(k)_i ln π_k,i + ln t_k ] + β KL(N(μ, σ_k²) ‖ N(0, I)),
    t_k      = (mean of σ_k over its dimensions)²

the last line being the paper's weighting of tasks by standard deviation, `weighting`.

Scores: V_k z + c_k at ε = 0, which is z = K μ; as `Factors`, with a column of ones for c_k.

Where we deviate: the gates of the paper (a softmax over one number per user in the authors' code,
which is 1) are left out, so that z is the sum of the z_k. The weighting is off by default, and all
t_k are ½: it wants σ_k² to be half the likelihood, which grows with the rows of a user and the
catalog, and σ_k is also the noise that z_k has to be read through. Without it BVAE learns faster,
and better lists, on two logs (docs/results.md). β grows by epoch, not by step, to the same cap.
Users without a row in a behavior count neither in its likelihood nor in its ln t_k (the authors'
code lets them pull t_k to zero). A step trains on users, not on pairs: on some of those who stand
in the batch, each with her whole rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mbrec.graph import Pairs, merge
from mbrec.models.base import Context, Entry, MethodConfig, TrainedMethod, embedding_table
from mbrec.sampling import Batch
from mbrec.scoring import Factors


class BvaeConfig(MethodConfig):
    """Settings of BVAE."""

    size: PositiveInt = 128
    """d, the size of the latent vector."""

    dropout: float = Field(default=0.5, ge=0, lt=1)
    """Share of a user's items that the encoders do not see, anew in each step."""

    kl_weight: NonNegativeFloat = 0.2
    """β at its largest."""

    anneal_epochs: PositiveInt = 1000
    """Epochs in which β grows from 0 to `kl_weight`."""

    weighting: bool = False
    """Weigh the likelihood of a behavior by its standard deviations, as the paper; else all weigh
    1, or what the trainer's task weighting says."""

    users: PositiveInt = 512
    """Users per step, drawn from those of the batch."""

    block: PositiveInt = 1024
    """Items whose logits are held at once: memory is users × block, for any catalog."""


class Bvae(TrainedMethod):
    """BVAE.

    Args:
        config: Settings.
        context: The training part of a dataset.
    """

    def __init__(self, config: BvaeConfig, context: Context) -> None:
        super().__init__()
        self.config = config
        self.behaviors = context.behaviors
        self._rows = {name: _Rows.of(pairs, context) for name, pairs in context.train.items()}
        self._union = _Rows.of(merge(context.train, context.num_items), context)
        self.mean = _Encoder(config.size, context)
        self.variance = nn.ModuleList(_Encoder(config.size, context) for _ in self.behaviors)
        self.decoder = nn.ModuleList(_Decoder(config, context) for _ in self.behaviors)
        self._random: torch.Generator | None = None
        self._kl_weight = config.kl_weight

    def begin_epoch(self, epoch: int, random: torch.Generator) -> None:
        """β of this epoch, and what draws its users, noise and dropout."""
        self._random = random
        self._kl_weight = self.config.kl_weight * min(1.0, epoch / self.config.anneal_epochs)

    def propagate(self) -> None:
        """Nothing: there is no message passing, and only the users of a batch are encoded."""

    def losses(self, state: None, batch: Batch) -> dict[str, Tensor]:
        """The weighted likelihood of every behavior, and the KL divergence."""
        users = self._draw(torch.cat([triples.user_idx for triples in batch.values()]))
        mean = self.mean(self._drop(self._union.of_users(users)))  # (B, d)
        rows = [self._rows[behavior].of_users(users) for behavior in self.behaviors]
        log_variance = torch.stack(
            [encode(self._drop(part)) for encode, part in zip(self.variance, rows, strict=True)]
        )  # (K, B, d)
        deviation = torch.exp(0.5 * log_variance)
        z = (mean + self._noise(deviation)).sum(0)  # (B, d)
        terms = {}
        for place, behavior in enumerate(self.behaviors):
            there = rows[place].counts.nonzero().squeeze(1)  # who has this behavior
            if behavior in batch and len(there):
                loss = self.decoder[place](z[there], rows[place].of_users(there))  # (B',)
                if self.config.weighting:
                    scale = deviation[place, there].mean(1).square()
                    loss = 0.5 * loss / scale + torch.log(scale)
                terms[f"nll/{behavior}"] = loss.mean()
        divergence = 0.5 * (deviation.square() + mean.square() - log_variance - 1)
        terms["kl"] = self._kl_weight * divergence.sum((0, 2)).mean()
        return terms

    @torch.no_grad()
    def scorers(self) -> dict[str, Factors]:
        """K μ of all users against every behavior's decoder."""
        z = len(self.behaviors) * self.mean(self._union)  # (U, d)
        user_emb = torch.cat([z, torch.ones_like(z[:, :1])], dim=1)
        return {
            behavior: Factors(user_emb, decode.with_bias())
            for behavior, decode in zip(self.behaviors, self._decoders(), strict=True)
        }

    def _decoders(self) -> list[_Decoder]:
        return [decode for decode in self.decoder if isinstance(decode, _Decoder)]

    def _draw(self, rows: Tensor) -> Tensor:
        """At most `users` of the distinct users of a batch. (B,) int64."""
        distinct: Tensor = torch.unique(rows)
        if self._random is None or len(distinct) <= self.config.users:
            return distinct
        order = torch.randperm(len(distinct), generator=self._random, device=rows.device)
        return distinct[order[: self.config.users]]

    def _drop(self, rows: _Rows) -> _Rows:
        """Dropout on the entries of the rows."""
        if not self.training or self._random is None or not self.config.dropout:
            return rows
        kept = torch.rand(rows.values.shape, generator=self._random, device=rows.values.device)
        scale = (kept >= self.config.dropout) / (1 - self.config.dropout)
        return _Rows(rows.indptr, rows.items, rows.values * scale)

    def _noise(self, deviation: Tensor) -> Tensor:
        """ε ⊗ σ, or zeros out of training."""
        if not self.training or self._random is None:
            return torch.zeros_like(deviation)
        return deviation * torch.randn(
            deviation.shape, generator=self._random, device=deviation.device
        )


@dataclass(frozen=True)
class _Rows:
    """Rows of users × items in CSR form, each of length 1 in the Euclidean norm, or empty."""

    indptr: Tensor  # (B + 1,) int64
    items: Tensor  # (E,) int64
    values: Tensor  # (E,) float32

    @classmethod
    def of(cls, pairs: Pairs, context: Context) -> _Rows:
        """One row per user, of pairs sorted by user."""
        users, items = pairs.tensors(context.device)
        counts = torch.bincount(users, minlength=context.num_users)  # (U,)
        return cls(_indptr(counts), items, counts[users].float() ** -0.5)

    @property
    def counts(self) -> Tensor:
        """Entries per row. (B,) int64."""
        return self.indptr.diff()

    def of_users(self, index: Tensor) -> _Rows:
        """Some of the rows."""
        counts = self.counts[index]
        indptr = _indptr(counts)
        shift = torch.repeat_interleave(self.indptr[index] - indptr[:-1], counts)
        place = torch.arange(len(shift), device=shift.device) + shift
        return _Rows(indptr, self.items[place], self.values[place])

    def times(self, table: Tensor) -> Tensor:
        """The sparse product with a table (I, d). (B, d)."""
        return F.embedding_bag(
            self.items,
            table,
            self.indptr,
            mode="sum",
            per_sample_weights=self.values,
            include_last_offset=True,
        )


class _Encoder(nn.Module):
    """A linear map of normalized rows to the latent space."""

    def __init__(self, size: int, context: Context) -> None:
        super().__init__()
        self.weight = embedding_table(context.num_items, size, "xavier", context.generator)
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, rows: _Rows) -> Tensor:
        """(B, d) of B rows."""
        return rows.times(self.weight) + self.bias


class _Decoder(nn.Module):
    """A linear map of latent vectors to the logits of all items, and its likelihood."""

    def __init__(self, config: BvaeConfig, context: Context) -> None:
        super().__init__()
        table = embedding_table(context.num_items, config.size, "xavier", context.generator)
        self.weight = table
        self.bias = nn.Parameter(torch.zeros(context.num_items))
        self._block = config.block

    def with_bias(self) -> Tensor:
        """V ‖ c. (I, d + 1)."""
        return torch.cat([self.weight, self.bias.unsqueeze(1)], dim=1)

    def forward(self, z: Tensor, rows: _Rows) -> Tensor:
        """-Σ_i x_i ln softmax(V z + c)_i of every row (B,), x_i being 1 for the row's items.

        The sum over the row's items is a sparse product, ln Σ exp is gathered over blocks of items,
        whose logits are made again in the backward: no more than (B, block) is ever held.

        Cost: O(B I d) time.
        """
        ones = _Rows(rows.indptr, rows.items, torch.ones_like(rows.values))
        own = (ones.times(self.weight) * z).sum(1) + ones.times(self.bias.unsqueeze(1)).squeeze(1)
        whole: Tensor = _LogSumExp.apply(  # type: ignore[no-untyped-call]
            z, self.weight, self.bias, self._block
        )
        return rows.counts * whole - own


class _LogSumExp(torch.autograd.Function):
    """The logarithm of Σ_i exp(V z + c)_i over all items, (B,), by blocks of items.

    Its gradients are softmax-weighted sums, made block by block from logits that are computed a
    second time; the incoming gradient scales rows, so that it can be taken to z and to the result.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, weight: Tensor, bias: Tensor, block: int) -> Tensor:
        """Ln Σ_i exp(z · w_i + b_i) (B,), of z (B, d), weights (I, d) and biases (I,)."""
        parts = [
            _log_sum_exp(torch.addmm(c, z, v.T))
            for v, c in zip(torch.split(weight, block), torch.split(bias, block), strict=True)
        ]
        result = torch.logsumexp(torch.stack(parts), 0)
        ctx.save_for_backward(z, weight, bias, result)
        ctx.block = block
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """The gradients of z, weights and biases, from that of the result (B,)."""
        z, weight, bias, result = ctx.saved_tensors
        z_grad, weight_grad = torch.zeros_like(z), torch.empty_like(weight)
        bias_grad, scaled = torch.empty_like(bias), gradient.unsqueeze(1) * z
        for start in range(0, len(weight), ctx.block):
            part = slice(start, start + ctx.block)
            share = torch.addmm(bias[part], z, weight[part].T)  # (B, block)
            share.sub_(result.unsqueeze(1)).exp_()
            z_grad.addmm_(share, weight[part])
            torch.mm(share.T, scaled, out=weight_grad[part])
            torch.mv(share.T, gradient, out=bias_grad[part])
        return z_grad.mul_(gradient.unsqueeze(1)), weight_grad, bias_grad, None


def _log_sum_exp(logits: Tensor) -> Tensor:
    """The logarithm of the sum of exponentials of every row, in the memory of the logits."""
    largest = logits.amax(1, keepdim=True)
    return logits.sub_(largest).exp_().sum(1).log_().add_(largest.squeeze(1))


def _indptr(counts: Tensor) -> Tensor:
    """Where rows of these lengths begin, and where the last ends."""
    return F.pad(counts.cumsum(0), (1, 0))


ENTRY = Entry(
    BvaeConfig, Bvae, needs_engine=False, train={"lr": 5e-3, "patience": 15, "average": 0.95}
)
