"""How context mixing counts on CUDA: in shapes that do not depend on numbers, so that the host need not wait for them.

A decoder has this file, and is charged for it, only where there is a CUDA device.
"""

import torch
from torch import Tensor


def count_on_cuda(wanted: Tensor, values: Tensor, coded: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Sorted keys [K B T S], each as often as it is in `wanted` [K, B, T, S]; and for each, how often it was wanted
    with each of the 2 * 2^stride values [B, T, S]. Only tokens that are `coded` [B, T] count: there is one at least."""
    # What is no token goes to the smallest key, and counts for nothing.
    leaves, coded = wanted << stride + 1 | values, coded.unsqueeze(-1)
    smallest = leaves.masked_fill(~coded, 1 << 62).amin() >> stride + 1 << stride + 1
    leaves = torch.where(coded, leaves, smallest).flatten().sort()[0]
    keys = leaves >> stride + 1
    bounds = (keys << stride + 1).unsqueeze(-1) + torch.arange((2 << stride) + 1, device=keys.device)
    return keys, torch.searchsorted(leaves, bounds, out_int32=True).diff()
