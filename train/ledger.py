"""The ledger: what has been coded, and at what cost. Sums, never means."""

import math

import numpy as np
import torch
from torch import Tensor

from train.engine import Place


class Ledger:
    """Nats, tokens and bytes coded by this rank's lanes. `token_bytes` [V] holds the bytes of each token.

    Nats are kept a lane, in float64, so that their sum does not depend on when it is taken.
    """

    def __init__(self, rows: int, token_bytes: np.ndarray, place: Place):
        self.token_bytes, self.place = token_bytes, place
        self.lane_nats = torch.zeros(rows, dtype=torch.float64, device=place.device)
        self.tokens = self.bytes = 0

    def add(self, nats: Tensor, targets: np.ndarray) -> None:
        """Enter a step: nats [rows, T] of the targets [rows, T], of which those below 0 are no tokens."""
        self.lane_nats += nats.double().sum(1)
        coded = targets[targets >= 0]
        self.tokens += len(coded)
        self.bytes += int(self.token_bytes[coded].sum())

    def totals(self) -> tuple[float, int, int]:
        """(bits, tokens, bytes) over all ranks: one all-reduce, which every rank must join."""
        nats, tokens, coded_bytes = self.place.sum([self.lane_nats.sum().item(), self.tokens, self.bytes])
        return nats / math.log(2), round(tokens), round(coded_bytes)
