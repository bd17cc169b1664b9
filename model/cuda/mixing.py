"""Context mixing that counts in shapes which do not depend on numbers, so that the host need not wait for them."""

import torch
from torch import Tensor

from model import mixing
from model.mixing import STRIDE


class ContextMixing(mixing.ContextMixing):
    def count(self, wanted: Tensor, values: Tensor, coded: Tensor) -> tuple[Tensor, Tensor]:
        """Each key is there as often as it is in `wanted`."""
        # What is no token goes to the smallest key of a token, and counts for nothing. Without any token, as where the
        # last step is padded, all go to one key, which is there from then on.
        leaves, coded = wanted << STRIDE + 1 | values, coded.unsqueeze(-1)
        smallest = leaves.masked_fill(~coded, 1 << 62).amin().minimum(leaves.amax()) >> STRIDE + 1 << STRIDE + 1
        leaves = torch.where(coded, leaves, smallest).flatten().sort()[0]
        keys = leaves >> STRIDE + 1
        bounds = (keys << STRIDE + 1).unsqueeze(-1) + torch.arange((2 << STRIDE) + 1, device=keys.device)
        return keys, torch.searchsorted(leaves, bounds, out_int32=True).diff()
