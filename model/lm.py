"""The language model: embedding, layers, output. Shapes: `B` rows, `T` time, `D` width, `V` vocabulary."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.layers import MLP, RMSNorm, coder_nats, parameter, precise, rows
from model.registry import load_block

# Rows of the table of embedded contexts.
GRAMS = 1 << 14


class Layer(nn.Module):
    """x + block(norm(x)), then x + mlp(norm(x)): residual layers with the norm in front (Xiong et al. 2020,
    arXiv:2002.04745). With no `hidden` channels there is no MLP, as in Mamba (Gu & Dao 2023, arXiv:2312.00752)."""

    def __init__(self, block: nn.Module, width: int, hidden: int):
        super().__init__()
        self.block, self.norm, self.mlp = block, RMSNorm(), MLP(width, hidden) if hidden else None

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        y, state = self.block(self.norm(x), state)
        x, state = x + y, tuple(part.detach() for part in state)
        return x + self.mlp(self.norm(x)) if self.mlp else x, state


class LanguageModel(nn.Module):
    """`forward(history [B, C - 1 + T], state, targets [B, T]) -> (nats [B, T] in fp32, state)`. Without targets, the
    first result is what `following` needs. A token is predicted at once, `radices` = [V], or digit by digit.

    The last T tokens of `history` are the inputs. The C - 1 tokens before them, C = `context`, complete the contexts of
    several tokens; some contexts may have embeddings, hashed to rows of one table (Pagnoni et al. 2024, "Byte Latent
    Transformer", arXiv:2412.09871, section 3.2.1). Beside context mixing, the network also sees which token came last
    after the latest ones (`ContextMixing.recall`). Targets below 0 stand for no token and cost nothing. The new state
    is detached: gradients end where a segment starts. `alone` leaves context mixing out; targets may then be those of
    the last inputs only. `looked` is what ContextMixing.take_in returned, if the counts have taken in the targets
    already. `config` is a ModelConfig.

    A state is that of each layer, and then, for context mixing, the numbers of the lanes [B]: some contexts are those
    of one lane.
    """

    def __init__(self, config: Any, vocabulary: int):
        super().__init__()
        width, self.cap, self.vocabulary = config.width, config.logit_cap, vocabulary
        names = config.block.split()
        self.embedding = parameter(torch.randn(vocabulary, width), "table")
        self.layers = nn.ModuleList(
            Layer(load_block(names[depth % len(names)])(config), width, round(config.expansion * width))
            for depth in range(config.depth)
        )
        self.norm = RMSNorm()
        # From zero, so that an untrained model codes every token with log2 V bits. A logit sums over the width, so the
        # learning rate falls with the width (Yang et al. 2022, arXiv:2203.03466, table 3).
        self.output = parameter(torch.zeros(width, vocabulary), "table", lr=64 / width)
        self.mixing, self.context, self.radices, self.embedded = None, 1, [vocabulary], []
        if config.ngram_orders:
            from model.mixing import LEVELS, ContextMixing

            self.mixing = ContextMixing(config, vocabulary, width)
            self.context, self.radices = self.mixing.contexts.length, self.mixing.radices
            self.embedded = [order for order in config.ngram_embeddings if order or self.mixing.contexts.words]
            # What `recall` says of the next token, for the network to see.
            self.recalled = parameter(torch.zeros(vocabulary, width), "table")
            self.seen = parameter(torch.zeros(LEVELS * self.mixing.recalled, width), "table")
        if self.embedded:
            self.grams = parameter(torch.zeros(GRAMS, width), "table")

    def init_state(self, batch: int, first: int = 0) -> list[Any]:
        """State of `batch` rows before their first token: lanes from number `first` on."""
        states: Any = [layer.block.init_state(batch) for layer in self.layers]  # type: ignore[operator, union-attr]
        return states + [torch.arange(first, first + batch, device=self.embedding.device)] * bool(self.mixing)

    def forward(
        self, history: Tensor, state: list[Any], targets: Tensor | None = None, alone: bool = False, looked: Any = ()
    ) -> tuple[Any, list[Any]]:
        mixing: Any = self.mixing
        hashes = known = None
        x = F.embedding(history[:, self.context - 1 :], self.embedding)
        if self.embedded or (mixing and not (alone or looked)):
            hashes = mixing.contexts.hashes(history, state[-1])
        if mixing and not alone:
            token, times = looked[:2] if looked else mixing.recall(hashes)
            x = x + rows(self.recalled, token) + rows(self.seen, times)
            known = hashes if targets is None else looked[2] if looked else mixing.pairs(hashes, targets)
        if self.embedded:
            x = x + rows(self.grams, mixing.contexts.buckets(hashes, self.embedded, GRAMS)).sum(0)
        x = self.norm(x)
        after = [*state]
        for depth, layer in enumerate(self.layers):
            x, after[depth] = layer(x, state[depth])
        if targets is None:
            return self.predict(x, known), after
        return self.cost(x[:, -targets.shape[1] :], targets, known), after

    def predict(self, x: Tensor, known: Tensor | None) -> Any:
        """What `following` needs, from the output x [B, T, D] of the last layer: logits [B, T, V] in fp32, or what
        ContextMixing.see makes of them and of what is `known`."""
        x = self.norm(x)
        # cap tanh(logits / cap) plus a constant, which softmax ignores: sigmoid is several times faster than tanh.
        logits = precise(x * (2 / self.cap if self.cap else 1) @ self.output)
        if self.cap:
            logits = 2 * self.cap * torch.sigmoid(logits)
        return logits if known is None else self.mixing.see(known, logits, x)  # type: ignore[union-attr]

    def cost(self, x: Tensor, targets: Tensor, pairs: Tensor | None) -> Tensor:
        """Nats [B, T] of targets [B, T], from what `predict` takes, with counts [B, T, K, D] if contexts are mixed."""
        seen = self.predict(x, pairs)
        if pairs is not None:
            return self.mixing.nats(seen, targets)  # type: ignore[union-attr]
        nats = F.cross_entropy(seen.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="none")
        return coder_nats(nats, nats.unsqueeze(-1)).view_as(targets)

    def following(self, seen: Any, node: Tensor, digit: int) -> Tensor:
        """Probabilities [B, P, radices[digit]] of a token's digit, from what `forward` returned for histories of C
        tokens. `node` [B, P] are P paths through the digits before it, each written as a number after a leading 1."""
        return seen.softmax(-1) if self.mixing is None else self.mixing.digit(seen, node, digit)
