"""Muon under ZeRO, which cuts parameters and gradients into flat pieces.

DeepSpeed orthogonalises whole matrices, after their gradients are reduced over the ranks and accumulated. In stages 1
and 2 a rank does those of which it updates a part; in stage 3 the ranks take turns. The optimiser's step then finds a
piece of the direction where the gradient was. It updates all other parameters as train.optim.Muon does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from train.optim import Muon, orthogonalise


def direction(gradient: Tensor, mean: Tensor, beta: float, **_: object) -> Tensor:
    """The step of a matrix [inputs, outputs] for a learning rate of 1, as train.optim.Muon takes it; moves `mean` on.

    In place of DeepSpeed's muon_update, which scales for matrices [outputs, inputs] and compiles for seconds.
    """
    inputs, outputs = gradient.shape
    mean.lerp_(gradient, 1 - beta)
    step = orthogonalise(gradient.lerp(mean, beta)[None])[0]
    # DeepSpeed flattens it.
    return step.mul_(max(1, outputs / inputs) ** 0.5).contiguous()


def zero_muon(plain: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """DeepSpeed's optimiser in place of a train.optim.Muon. ZeRO accepts no class derived from it."""
    from deepspeed.runtime.zero.muon import original_muon
    from deepspeed.runtime.zero.muon.muon_optimizer import MuonWithAuxAdam

    original_muon.muon_update = direction
    for group in plain.param_groups:
        group["use_muon"] = group["role"] == "matrix"
        for p in group["params"]:
            p.use_muon = group["use_muon"]
        if group["use_muon"] and group["order"] < 0:
            # All of one shape, [outputs, inputs]: what `direction` scales as if it were [inputs, outputs].
            outputs, inputs = group["params"][0].shape
            group["lr"] = group["peak_lr"] = group["lr"] * (outputs / inputs) ** 0.5
    rates = {name: plain.defaults[name] for name in ("momentum", "beta2", "weight_decay")}
    return MuonWithAuxAdam(plain.param_groups, Muon, rates)
