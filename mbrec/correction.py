"""What a small network adds to the scores of a stack.

A stack is linear in its parts. Whether a user has bought the item, how alike her neighbors are and
how popular it is, together, may say something else than their sum: a network with one hidden layer
reads the scores of all parts, what is known of the user and what is known of the item,

    x_p = clip((s_p(u, i) - m_p) / d_p, ±6)
    ŷ(u, i) = stack(u, i) + aᵀ max(0, W x + V b(i) + Z z(u) + c)

with mean m_p and deviation d_p of part p over the candidates, biases b_j of the items and
activities z_r of the users as `mbrec.stacking` has them. It is learned after the stack, which it
starts from (a = 0), by the same likelihood over the same candidates, in a fixed number of passes
(AdamW, Loshchilov and Hutter, ICLR 2019; the rate falls to 0). Whether it is taken is up to the
caller: users whom it was not learned from have to get better lists.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from mbrec.candidates import Candidates
from mbrec.logit import in_blocks
from mbrec.network import Network
from mbrec.scoring import Sum

_PASSES = 30
_BATCH = 64  # users
_CELLS = 4096  # candidates whose hidden units are computed at a time
_RATE, _DECAY = 1e-2, 0.3


@dataclass(frozen=True)
class Correction:
    """The weights of a network with H hidden units, for P parts; float32."""

    center: Tensor  # (P,) m
    scale: Tensor  # (P,) 1 / d
    weights: Tensor  # (P, H) Wᵀ
    item_weights: Tensor  # (J, H) Vᵀ
    user_weights: Tensor  # (R, H) Zᵀ
    bias: Tensor  # (H,) c
    last: Tensor  # (H,) a

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Correction:
        """What `plain` gave.

        Raises:
            TypeError, ValueError: It is something else.
        """
        hidden = len(plain["last"])
        found = {name: torch.tensor(values, dtype=torch.float32) for name, values in plain.items()}
        for name in ("item_weights", "user_weights"):
            found[name] = found[name].view(-1, hidden)  # there may be none
        return cls(**found)

    def plain(self) -> dict[str, Any]:
        """Lists of numbers, for `run.json`."""
        return {field.name: getattr(self, field.name).tolist() for field in fields(self)}

    def scorer(self, base: Sum, items: Tensor, users: Tensor) -> Network:
        """The stack with what is added, for all users and items.

        Args:
            base: The stack, of the parts that it was learned with, or of the same made anew.
            items: b. (J, I).
            users: z. (R, U).
        """
        device = base.device
        return Network(
            base,
            item_features=items.T.contiguous().to(device),
            user_features=users.T.contiguous().to(device),
            **{field.name: getattr(self, field.name).to(device) for field in fields(self)},
        )

    def scores(self, pool: Candidates, items: Tensor, users: Tensor) -> Tensor:
        """What is added to the scores of all candidates. (N, W); 0 where there is none."""
        maps = torch.cat([self.weights, self.item_weights, self.user_weights, self.bias[None]])
        layer, found = _Layer(maps, self.last), torch.zeros(pool.items.shape)
        for block in in_blocks(len(found)):
            inputs = _inputs(pool, block, self.center, self.scale, items, users)
            found[block][pool.items[block] >= 0] = layer.scores(inputs)
        return found


def fit_correction(
    pool: Candidates, base: Tensor, items: Tensor, users: Tensor, hidden: int
) -> Correction:
    """Learn a network that starts from the scores of a stack.

    Args:
        pool: Candidates and held-out rows.
        base: The stack's scores of the candidates. (N, W).
        items: b. (J, I).
        users: z. (R, U).
        hidden: H.

    The same on every call: it draws from a generator of its own.

    Memory: P + J + R + 1 numbers of 4 bytes for every candidate.
    """
    there = pool.items >= 0
    values = pool.scores[:, there]
    center = values.mean(1)
    values -= center[:, None]
    deviation = torch.linalg.vector_norm(values, dim=1) / max(values.shape[1], 1) ** 0.5
    scale = 1 / deviation.clamp(min=1e-3)
    del values
    counts = there.sum(1)
    ends = counts.cumsum(0)
    inputs = torch.empty(int(counts.sum()), len(center) + len(items) + len(users) + 1)
    for block in in_blocks(len(counts)):
        some = slice(int(ends[block][0] - counts[block][0]), int(ends[block][-1]))
        inputs[some] = _inputs(pool, block, center, scale, items, users)

    random = torch.Generator().manual_seed(0)
    bound = (inputs.shape[1] - 1) ** -0.5  # initial weights are those of `torch.nn.Linear`
    layer = _Layer(
        torch.empty(inputs.shape[1], hidden).uniform_(-bound, bound, generator=random),
        torch.zeros(hidden),
    )
    share = (
        pool.held_out.sum(1).clamp(min=1).rsqrt()
    )  # of each row of a user, as in the stack's likelihood
    optimizer = torch.optim.AdamW(layer.parameters(), lr=_RATE, weight_decay=_DECAY, fused=True)
    steps = max(_PASSES * -(-len(share) // _BATCH), 1)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    for _ in range(_PASSES):
        order = torch.randperm(len(share), generator=random)
        for batch in torch.split(order, _BATCH):
            mine, own = there[batch], counts[batch]
            # The rows of the batch's candidates, user after user.
            rows = (ends[batch] - own.cumsum(0)).repeat_interleave(own) + torch.arange(
                int(own.sum())
            )
            read = inputs.index_select(0, rows)
            scores = base[batch].masked_fill_(~mine, -torch.inf)
            scores[mine] += layer.scores(read)
            layer.learn(read, _gradient(scores, pool.held_out[batch], share[batch])[mine])
            optimizer.step()
            schedule.step()
    parts = [len(center), len(items), len(users), 1]
    weights, of_items, of_users, bias = torch.split(layer.maps.detach(), parts)
    return Correction(center, scale, weights, of_items, of_users, bias[0], layer.last.detach())


class _Layer:
    """One hidden layer over rows of inputs, a block of them at a time, which the cache holds.

    Its gradients are written out: autograd takes three times as long, for passes over all hidden
    units of a batch.

    Args:
        maps: W, V, Z and c, transposed, one below the other. (F, H)
        last: a. (H,)
    """

    def __init__(self, maps: Tensor, last: Tensor) -> None:
        self.maps, self.last = nn.Parameter(maps), nn.Parameter(last)
        self._hidden = maps.new_empty(0, len(last))

    def parameters(self) -> list[nn.Parameter]:
        """What is learned."""
        return [self.maps, self.last]

    @torch.no_grad()
    def scores(self, inputs: Tensor) -> Tensor:
        """What is added to the scores of candidates (C,), from what is read of them (C, F)."""
        if len(self._hidden) < len(inputs):
            self._hidden = inputs.new_empty(len(inputs), len(self.last))
        found = inputs.new_empty(len(inputs))
        for block in _blocks(len(inputs)):
            torch.mm(inputs[block], self.maps, out=self._hidden[block]).relu_()
            torch.mv(self._hidden[block], self.last, out=found[block])
        return found

    @torch.no_grad()
    def learn(self, inputs: Tensor, gradient: Tensor) -> None:
        """Set the gradients of what is learned, from that of the `scores` taken last (C,)."""
        maps, last = torch.zeros_like(self.maps), torch.zeros_like(self.last)
        for block in _blocks(len(inputs)):
            hidden, each = self._hidden[block], gradient[block]
            last.addmv_(hidden.T, each)
            # By the function that torch's own ReLU uses; `torch.where` takes twenty times as long.
            active = torch.ops.aten.threshold_backward(each[:, None].expand_as(hidden), hidden, 0)
            maps.addmm_(inputs[block].T, active)
        self.maps.grad, self.last.grad = maps.mul_(self.last), last


def _inputs(
    pool: Candidates, block: slice, center: Tensor, scale: Tensor, items: Tensor, users: Tensor
) -> Tensor:
    """What the network reads of the candidates of some users, and 1. (C, P + J + R + 1)."""
    there = pool.items[block] >= 0
    scores = pool.scores[:, block][:, there]
    scores.sub_(center[:, None]).mul_(scale[:, None]).clamp_(-Network.CLIP, Network.CLIP)
    of_users = users[:, pool.users[block]].repeat_interleave(there.sum(1), 1)
    ones = torch.ones(1, scores.shape[1])
    return torch.cat([scores, items[:, pool.items[block][there]], of_users, ones]).T


def _gradient(scores: Tensor, held_out: Tensor, share: Tensor) -> Tensor:
    """Of the unlikeliness of what is held out by the scores, (n, W) of n users.

    That is a user's shares of a softmax as often as she has rows, less 1 for each of these; all
    times her `share` (n,), in the mean over users.
    """
    weight = held_out * share[:, None] / len(share)
    return scores.softmax(1) * weight.sum(1, keepdim=True) - weight


def _blocks(rows: int) -> Iterator[slice]:
    return (slice(first, min(first + _CELLS, rows)) for first in range(0, rows, _CELLS))
