"""Arithmetic of a forward pass, counted by PyTorch's dispatcher."""

from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count


def _attention(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _lstm_cpu(inputs: Any, *weights: Any, **kwargs: Any) -> int:
    return _recurrent(inputs, weights[:2])


def _lstm_cuda(inputs: Any, weights: Any, *args: Any, **kwargs: Any) -> int:
    return _recurrent(inputs, weights)


def _recurrent(inputs: Any, weights: Any) -> int:
    """Every token meets every weight of every matrix; what is not one is a bias."""
    return 2 * inputs[0] * inputs[1] * sum(shape[0] * shape[1] for shape in weights if len(shape) == 2)


# The counter does not know attention's form for CPUs, nor recurrent networks.
MORE = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten.mkldnn_rnn_layer: _lstm_cpu,
    torch.ops.aten._cudnn_rnn: _lstm_cuda,
}


def forward_flops(model: nn.Module, time: int, device: torch.device | None = None, alone: bool = False) -> int:
    """Floating-point operations of one row's forward pass over `time` tokens: those of matrix products and attention,
    so neither elementwise recurrences nor Fourier transforms. `alone` leaves context mixing out."""
    lm: Any = model
    history = torch.zeros(1, lm.context - 1 + time, dtype=torch.int64, device=device)
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=MORE) as counter:
        lm(history, lm.init_state(1), history[:, -time:], alone)
    return counter.get_total_flops()
