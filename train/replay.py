"""Replay: in each step, learn again from what is already coded (Bornschein, Li & Hutter 2022, arXiv:2210.07931).

Every token is coded once, by parameters that have not seen it. But a decoder has all tokens before it, too, and may
train on them as often as it likes. From the tokens that each lane coded last, we draw segments of twice a step's
length, uniformly. Only the network learns from them: context mixing has counted these tokens already. A replayed
segment starts from an empty state, and its first quarter only fills the state.

Shapes: `R` lanes of this rank, `N` segments of each at this step, `L` tokens of a replayed segment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from data.lanes import read_stages

if TYPE_CHECKING:
    from data.lanes import Lanes
    from train.config import TrainConfig
    from train.engine import Place
    from train.loop import Learner

# Tokens of each lane to draw from. A limit: memory must not grow with the corpus.
REMEMBERED = 1 << 16


class Replay:
    """Draws segments from each lane of this rank, as many as `config.replay` says."""

    # Of the mean nats of replayed tokens, where that of new tokens is 1: the note on CPU seconds in research/.
    weight = 0.5

    def __init__(self, config: TrainConfig, place: Place, context: int):
        """`context` C is the number of tokens that an input needs: itself, and those before it."""
        self.place, self.context = place, context
        self.stages = read_stages(config.replay)

    def segments(self, learner: Learner, lanes: Lanes, step: int) -> list[tuple[Tensor, list[Any], Tensor, bool]]:
        """For each micro-batch what the model takes to replay, after `step` steps of the plan `lanes`; empty if there
        is nothing to replay."""
        drawn = self.draw(learner.recent, lanes, step) or ()
        parts = zip(*(part.chunk(len(learner.states)) for part in drawn), strict=True)
        return [(inputs, learner.model.init_state(len(inputs)), targets, True) for inputs, targets in parts]

    def draw(self, past: Tensor, lanes: Lanes, step: int) -> tuple[Tensor, Tensor] | None:
        """Inputs [R * N, C - 1 + L] and targets of their last three quarters, lane by lane; -1 is no token. `past`
        [R, C - 1 + P] ends with what was coded in the `step` steps before. None if that is too short, or N is 0."""
        before, length = self.context - 1, 2 * lanes.stage(step)[2]
        known = min(lanes.segment(step)[0], past.shape[1] - before)
        *_, number = (number for number, begins in self.stages if begins <= lanes.progress(step))
        if known <= length or not number:
            return None
        # Every rank draws for all lanes, so that the number of ranks does not matter.
        seeded = torch.Generator().manual_seed(step)
        starts = torch.randint(known - length, (lanes.lanes, number), generator=seeded)
        mine = starts[self.place.rank * len(past) :][: len(past)] + past.shape[1] - known - before
        index = mine.unsqueeze(-1) + torch.arange(before + length + 1)
        segments = past.gather(1, index.flatten(1).to(past.device)).view(-1, index.shape[-1])
        return segments[:, :-1].clamp(min=0), segments[:, self.context + length // 4 :]
