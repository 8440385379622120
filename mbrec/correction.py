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

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from mbrec.candidates import Candidates
from mbrec.network import Network
from mbrec.scoring import Sum

_PASSES = 30
_BATCH = 64  # users
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
        """What is added to the scores of all candidates. (N, W)."""
        with torch.no_grad():
            blocks = torch.split(torch.arange(len(pool.items)), _BATCH)
            return torch.cat([self._read(pool, block, items, users) for block in blocks])

    def _read(self, pool: Candidates, block: Tensor, items: Tensor, users: Tensor) -> Tensor:
        """The same of some of the users. (n, W)."""
        given = pool.scores[:, block] - self.center[:, None, None]
        given.mul_(self.scale[:, None, None]).clamp_(-Network.CLIP, Network.CLIP)
        # What is known of items is looked up before the product: gradients of a lookup may add up
        # in any order.
        read = torch.cat([given, items[:, pool.items[block].clamp(min=0)]])  # (P + J, n, W)
        maps = torch.cat([self.weights, self.item_weights])
        of_users = users[:, pool.users[block]].T @ self.user_weights + self.bias  # (n, H)
        hidden = torch.tensordot(maps.T, read, 1) + of_users.T[:, :, None]  # (H, n, W)
        found: Tensor = torch.tensordot(self.last, torch.relu(hidden), 1)
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
    """
    there = pool.items >= 0
    values = pool.scores[:, there]
    scale = 1 / values.std(1, correction=0).clamp(min=1e-3)
    random = torch.Generator().manual_seed(0)
    bound = (len(values) + len(items) + len(users)) ** -0.5

    def drawn(*shape: int) -> Tensor:
        """Initial weights, as those of `torch.nn.Linear`."""
        return torch.empty(*shape).uniform_(-bound, bound, generator=random).requires_grad_()

    learned = {
        "weights": drawn(len(values), hidden),
        "item_weights": drawn(len(items), hidden),
        "user_weights": drawn(len(users), hidden),
        "bias": drawn(hidden),
        "last": torch.zeros(hidden, requires_grad=True),
    }
    network = Correction(values.mean(1), scale, **learned)
    share = pool.held_out.sum(1).rsqrt()  # of each row of a user, as in the stack's likelihood
    optimizer = torch.optim.AdamW(learned.values(), lr=_RATE, weight_decay=_DECAY, fused=True)
    steps = max(_PASSES * -(-len(share) // _BATCH), 1)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    for _ in range(_PASSES):
        order = torch.randperm(len(share), generator=random)
        for batch in torch.split(order, _BATCH):
            scores = base[batch] + network._read(pool, batch, items, users)
            logs = scores.masked_fill(~there[batch], -torch.inf).log_softmax(1)
            found = torch.where(pool.held_out[batch], logs, 0.0).sum(1)
            loss = -(found @ share[batch]) / len(batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    plain = {name: weight.detach() for name, weight in learned.items()}
    return Correction(network.center, network.scale, **plain)
