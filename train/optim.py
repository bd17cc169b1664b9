"""Optimisers, and the learning rate as a function of progress. Parameters say how they are to be optimised:
model.layers.parameter."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.optim.adam import adam

if TYPE_CHECKING:
    from train.config import TrainConfig


# The quintic of Jordan et al. 2024 ("Muon: an optimizer for hidden layers in neural networks"): steepest at zero.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def quintic(gram: Tensor) -> Tensor:
    """a I + b gram + c gram^2 of matrices [n, rows, rows]."""
    a, b, c = NEWTON_SCHULZ
    factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    factor.diagonal(dim1=1, dim2=2).add_(a)
    return factor


def orthogonalise(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Matrices [n, rows, columns] with all singular values moved to about 1, by Newton-Schulz iteration.

    In bf16 on CUDA; in the precision given on CPU, where bf16 has no hardware.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x.bfloat16() if x.is_cuda else x
    # Contiguous and never tall: the batched product of a transposed operand is ten times slower on CPU.
    x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).contiguous()
    a, b, c = NEWTON_SCHULZ
    if x.dtype == torch.bfloat16 or x.shape[2] < 2 * x.shape[1]:
        for _ in range(iterations):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    else:
        # Half the work for wide matrices: every iteration multiplies from the left by a polynomial in one Gram matrix,
        # so only that matrix is iterated. It has the squares of singular values: too small for bf16.
        gram = x @ x.mT
        factor = product = quintic(gram)
        for _ in range(iterations - 1):
            gram = factor @ gram @ factor
            factor = quintic(gram)
            product = factor @ product
        x = product @ x
    x = x.to(matrices.dtype)
    return x.mT if tall else x


def orthogonalise_together(matrices: Tensor, before: int) -> tuple[Tensor, list[dist.Work]]:
    """The same for matrices that all ranks hold: each rank computes its share and sends it to the others. The result is
    complete after a wait for the messages that are returned with it. `before` counts the matrices of this step that
    were shared out before, so that small groups do not all go to the first ranks."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return orthogonalise(matrices), []
    ranks = dist.get_world_size()
    whole = torch.empty_like(matrices, dtype=torch.bfloat16 if matrices.is_cuda else None)
    first = (dist.get_rank() - before) % ranks
    whole[first::ranks] = orthogonalise(matrices[first::ranks])
    return whole, [dist.broadcast(one, (before + number) % ranks, async_op=True) for number, one in enumerate(whole)]


class Muon(torch.optim.Optimizer):
    """Muon for groups of role `matrix` (all of one shape, orthogonalised in one batch), Adam for the other roles.

    PyTorch's functions for many tensors at once, which its own optimisers use, have no names without `_foreach_`."""

    def __init__(self, groups: Iterable[dict[str, Any]], momentum: float, beta2: float, weight_decay: float):
        super().__init__(groups, {"momentum": momentum, "beta2": beta2, "weight_decay": weight_decay, "order": 1})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        before, pending = 0, []
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            gradients = [p.grad for p in parameters]
            if not parameters:
                continue
            for p in parameters:
                if not self.state[p]:
                    self.state[p] = {"mean": torch.zeros_like(p)}
                    if group["role"] != "matrix":
                        self.state[p] |= {"square": torch.zeros_like(p), "updates": torch.zeros((), device=p.device)}
            means = [self.state[p]["mean"] for p in parameters]
            if group["role"] == "matrix":
                # Nesterov momentum; more outputs than inputs make a step longer, so that the outputs move as much.
                torch._foreach_lerp_(means, gradients, 1 - group["momentum"])
                ahead = torch.stack(torch._foreach_lerp(gradients, means, group["momentum"]))
                inputs, outputs = parameters[0].shape[:: group["order"]]
                if group["weight_decay"]:
                    torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                step_length = -group["lr"] * max(1, outputs / inputs) ** 0.5
                pending.append((parameters, step_length, *orthogonalise_together(ahead, before)))
                before += len(parameters)
            else:
                # Kingma & Ba 2015, arXiv:1412.6980, algorithm 1, in one pass over memory.
                squares, updates = ([self.state[p][name] for p in parameters] for name in ("square", "updates"))
                adam(
                    parameters, gradients, means, squares, [], updates, fused=True, amsgrad=False, maximize=False,
                    lr=group["lr"], beta1=0.9, beta2=group["beta2"], eps=1e-8, weight_decay=0.0,
                )  # fmt: skip
        # After all shapes, so that ranks wait for each other only once.
        for parameters, step_length, directions, sent in pending:
            for work in sent:
                work.wait()
            # In a CUDA graph, rates are tensors, which foreach takes for no `alpha`.
            torch._foreach_add_(parameters, list((directions.to(parameters[0].dtype) * step_length).unbind()))


def build_optimizer(model: nn.Module, config: TrainConfig, width: int) -> torch.optim.Optimizer:
    """The optimiser that `config` names, with a group for each role, rate and, for matrices, shape."""
    rates = {"matrix": config.matrix_lr, "table": config.table_lr, "vector": config.vector_lr}
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    parameters: Any = model.parameters()
    for p in parameters:
        rate = rates[p.role] * p.lr
        if config.optimizer == "adamw" and p.role == "matrix":
            # Adam moves every entry by the same step, so outputs move with the width (arXiv:2203.03466, table 3).
            rate *= 20 / width
        # -1: stored as [outputs, inputs], as torch.nn does (model/adapter.py).
        order = getattr(p, "order", 1)
        key = (p.role, rate, p.shape if p.role == "matrix" else None, order)
        decay = config.weight_decay if p.role == "matrix" else 0.0
        new = {"params": [], "role": p.role, "order": order, "lr": rate, "peak_lr": rate, "weight_decay": decay}
        groups.setdefault(key, new)["params"].append(p)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups.values(), betas=(0.9, config.beta2), fused=True)
    return Muon(groups.values(), config.momentum, config.beta2, config.weight_decay)


def rate_scale(progress: float, config: TrainConfig) -> float:
    """Learning rate as a fraction of its peak, at `progress` in [0, 1] of the epoch: constant, then linear."""
    fall = max(0.0, progress - config.flat_fraction) / (1 - config.flat_fraction)
    return 1 - (1 - config.final_fraction) * fall
