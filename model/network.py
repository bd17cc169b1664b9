"""A whole network of the transformers library as the language model. A decoder of blocks is not charged for this file.

Such a network has no state that we could carry, so it reads tokens again: the W tokens before a segment stand in front
of it. They are not coded again, but gradients of the segment's nats go through what the network computes of them. A
token is predicted from its segment so far and those W tokens, in training and token by token alike. Before a lane
begins, there are ends of documents.

| parameter that declares no role | role |
|---|---|
| the tables of embeddings and of the output, which may be one | table; that of the output with 64 / D times the rate |
| a 2-D weight of nn.Linear | matrix, [outputs, inputs] |
| a 2-D weight of transformers' Conv1D | matrix, [inputs, outputs] |
| any other | vector |

Shapes: `B` rows, `T` time, `W` = model.window, `D` width, `V` vocabulary.
"""

import json
import os
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.adapter import give_roles
from model.layers import RMSNorm, coder_nats, precise

# Otherwise transformers may take kernels from the internet. It reads this once.
os.environ["USE_HUB_KERNELS"] = "NO"

from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D


class Network(nn.Module):
    """What model.lm.LanguageModel is to its users. `config.network` is transformers:JSON (train/networks.py); its
    parameters are random and in fp32."""

    def __init__(self, config: Any, vocabulary: int):
        super().__init__()
        self.window, self.vocabulary = config.window, vocabulary
        given = json.loads(config.network.partition(":")[2])
        # Of our symbols, none is padding, whose embedding would stay zero.
        settings = AutoConfig.for_model(**given, vocab_size=vocabulary, pad_token_id=None, use_cache=False)
        self.network = AutoModelForCausalLM.from_config(settings, dtype=torch.float32)
        head = self.network.get_output_embeddings()
        for module in self.network.modules():
            if isinstance(module, Conv1D):
                module.weight.role, module.weight.lr = "matrix", 1.0
        # As in model.lm: a logit sums over the width.
        head.weight.role, head.weight.lr = "table", 64 / config.width
        give_roles(self.network)
        # What the output layer sees, under whatever name.
        head.register_forward_pre_hook(self.keep)
        self.mixing, self.context, self.radices = None, config.window + 1, [vocabulary]
        if config.ngram_orders:
            from model.mixing import ContextMixing

            self.mixing = ContextMixing(config, vocabulary, head.weight.shape[1])
            contexts, self.radices, self.norm = self.mixing.contexts, self.mixing.radices, RMSNorm()
            self.context = contexts.length = max(self.context, contexts.length)

    def keep(self, head: nn.Module, inputs: tuple[Tensor]) -> None:
        self.last = inputs[0]

    def init_state(self, batch: int, first: int = 0) -> list[Tensor]:
        """The tokens [B, 0] of a segment so far that are more than W back; and the numbers of the lanes [B]."""
        lanes = torch.arange(first, first + batch, device=next(self.parameters()).device)
        return [lanes.new_zeros(batch, 0), lanes]

    def forward(
        self, history: Tensor, state: list[Tensor], targets: Tensor | None = None, alone: bool = False, looked: Any = ()
    ) -> tuple[Any, list[Tensor]]:
        """As LanguageModel.forward. Targets end a segment; without them it goes on."""
        time = history.shape[1] - self.context + 1
        fed = torch.cat([state[0], history[:, -self.window - time :]], 1)
        seen: Any = precise(self.network(fed, logits_to_keep=time).logits[:, -time:])
        x, known = self.last[:, -time:], None
        del self.last
        if self.mixing is not None and not alone:
            hashes = self.mixing.contexts.hashes(history, state[1])
            known = hashes if targets is None else looked[2] if looked else self.mixing.pairs(hashes, targets)
            seen = self.mixing.see(known, seen, self.norm(x))
        if targets is None:
            return seen, [fed[:, : -self.window], state[1]]
        if known is not None:
            nats = self.mixing.nats(seen, targets)  # type: ignore[union-attr]
        else:
            seen = seen[:, -targets.shape[1] :]
            nats = F.cross_entropy(seen.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="none")
            nats = coder_nats(nats, nats.unsqueeze(-1)).view_as(targets)
        return nats, [history[:, :0], state[1]]

    def following(self, seen: Any, node: Tensor, digit: int) -> Tensor:
        """As LanguageModel.following."""
        return seen.softmax(-1) if self.mixing is None else self.mixing.digit(seen, node, digit)
