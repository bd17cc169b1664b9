"""One epoch of learning. Every token is coded with the parameters as they are before any update has seen it.

Training, compressing and decompressing run this same loop; they differ in the source of tokens (archive/decoding.py).
Shapes: `R` lanes of this rank, `T` time, `C` tokens of context, `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from data.lanes import WHOLE_LOGITS, Lanes, step_logits
from model.build import build_model
from model.lm import LanguageModel
from train.engine import Place, build_engine, deepspeed_config
from train.optim import build_optimizer, rate_scale

if TYPE_CHECKING:
    from train.config import Config
    from train.ledger import Ledger


class Learner:
    """The model, its optimiser and the carried state of this rank's lanes."""

    def __init__(self, config: Config, vocabulary: int, start: int, place: Place, extra: dict[str, Any] | None = None):
        """`start` is the token before every lane; `extra` are the user's own DeepSpeed keys."""
        torch.manual_seed(config.train.seed)
        self.config, self.place = config.train, place
        model = build_model(config.model, vocabulary)
        if config.engine.kernels != "on" and step_logits(config.train, vocabulary) > WHOLE_LOGITS:
            from model.parts import compute_in_parts

            compute_in_parts(model)
        optimizer = build_optimizer(model, config.train, config.model.width)
        if config.engine.zero_stage and config.train.optimizer == "muon":
            from train.zero_muon import zero_muon

            optimizer = zero_muon(optimizer)
        self.engine = build_engine(model, optimizer, deepspeed_config(config, place.world_size, extra or {}))
        self.model: LanguageModel = self.engine.module
        if config.engine.zero_stage < 3:
            # Faster. In stage 3, what is gathered stays for steps that learn.
            self.see = torch.inference_mode()(self.see)  # type: ignore[method-assign]
            self.following = torch.inference_mode()(self.following)  # type: ignore[method-assign]
        if config.engine.kernels == "on":
            from train.cuda import speed_up

            speed_up(self, config.engine)
        self.rows = config.train.lanes // place.world_size
        micro_rows = self.rows // config.train.accumulation
        mine = range(place.rank * self.rows, (place.rank + 1) * self.rows, micro_rows)
        self.states = [self.model.init_state(micro_rows, first) for first in mine]
        # What the counts said before this step's tokens so far; and how many of each lane they take in at once.
        self.looked: list[Tensor] = []
        self.chunk = self.model.mixing and self.model.mixing.chunk
        kept, self.replay = self.model.context, None
        if config.train.replay:
            from train.replay import REMEMBERED, Replay

            kept, self.replay = kept - 1 + REMEMBERED, Replay(config.train, place, kept)
        self.recent = torch.full((self.rows, kept), start, device=place.device)

    @torch.no_grad()
    def see(self, recent: Tensor, states: list[Any]) -> tuple[list[Any], list[Any]]:
        """The stepwise form, after `recent` [R, C]: what `following` needs, and the next states."""
        parts = zip(recent.chunk(len(states)), states, strict=True)
        seen, states = map(list, zip(*[self.engine(inputs, state) for inputs, state in parts], strict=True))
        return seen, states

    @torch.no_grad()
    def following(self, seen: list[Any], node: Tensor, digit: int) -> Tensor:
        """Probabilities [R, P, radix] of a token's digit at `node` [R, P], as LanguageModel.following gives them."""
        parts = zip(seen, node.chunk(len(seen)), strict=True)
        return torch.cat([self.model.following(part, before, digit) for part, before in parts])

    def learn(self, targets: Tensor, lanes: Lanes, step: int) -> Tensor:
        """Code targets [R, T] (-1 is no token), then learn from them. Returns their nats [R, T], detached.

        Step `step` of the plan `lanes` counts the tokens of all ranks, so that the gradient is that of nats a token
        over the global batch, and sets the learning rate.
        """
        rate = rate_scale(lanes.progress(step), self.config)
        # DeepSpeed averages over ranks and micro-batches.
        scale = self.place.world_size * len(self.states) / lanes.valid_tokens(step)
        again = self.replay and self.replay.segments(self, lanes, step)
        looked, self.looked = self.looked, []
        nats, self.recent, self.states = self.update(targets, self.recent, self.states, rate, scale, again, looked)
        return nats

    def count(self, targets: Tensor, recent: Tensor, looked: list[Tensor]) -> list[Tensor]:
        """Count a step's first tokens of all ranks, targets [R, n] after `recent`, as far as that is not done. Returns
        what the counts said before them; `looked` is what was returned for fewer."""
        whole = torch.cat([recent[:, -self.model.context :], targets], 1)
        return self.model.mixing.take_in(self.place.gather(whole), looked)  # type: ignore[union-attr]

    def update(
        self, targets: Tensor, recent: Tensor, states: Any, rate: Any, scale: Any, again: Any, looked: list[Tensor]
    ) -> tuple[Tensor, Tensor, list[Any]]:
        """The same after `recent` and `states`, with learning rates times `rate`, to reduce nats times `scale`, and to
        learn segments `again`. `looked` is what `count` returned for the step's first tokens. Returns also what is
        recent after it, and the states."""
        whole, states, number = torch.cat([recent, targets], 1), [*states], len(states)
        history = whole[:, -self.model.context - targets.shape[1] : -1].clamp(min=0)
        if self.chunk:
            looked = self.count(targets, recent, looked)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * rate
        nats = []
        for index, (inputs, wanted) in enumerate(zip(history.chunk(number), targets.chunk(number), strict=True)):
            mine = self.place.rank * number + index
            said = [part.chunk(self.place.world_size * number)[mine] for part in looked]
            cost, states[index] = self.engine(inputs, states[index], wanted, False, said)
            loss = cost.sum() * scale
            if self.replay and again:
                loss = loss + self.replay.weight * self.engine(*again[index])[0].mean()
            self.engine.backward(loss)
            self.engine.step()
            nats.append(cost.detach())
        return torch.cat(nats), whole[:, targets.shape[1] :], states


class TokenSource(Protocol):
    """Where the loop gets its tokens from. `segment(step, learner)` gives this rank's targets [R, T] of a step."""

    def segment(self, step: int, learner: Learner) -> np.ndarray: ...


def one_epoch(
    learner: Learner, lanes: Lanes, source: TokenSource, ledger: Ledger | None, start_step: int = 0
) -> Iterator[int]:
    """Run the steps of the epoch from `start_step` on, and enter them in `ledger`; a decoder keeps none. Yields the
    number of steps done, after each."""
    for step in range(start_step, lanes.steps):
        targets = source.segment(step, learner)
        tokens = torch.from_numpy(targets).to(learner.place.device, non_blocking=True)
        nats = learner.learn(tokens, lanes, step)
        if ledger:
            ledger.add(nats, targets)
        yield step + 1
