"""Arithmetic of a forward pass, counted by PyTorch's dispatcher, operator by operator.

| counted as | operators | operations |
|---|---|---|
| flops | matrix products, convolutions, attention: PyTorch's own formulas | 2 m n k a product |
| flops | recurrent networks in one kernel (oneDNN, cuDNN) | 2 for each weight of a matrix and token |
| flops | triangular systems [n, n] with k right sides | n^2 k |
| flops | Fourier transforms of n numbers | 5 n log2 n, half of it where one side is real |
| elementwise | scans, norms, gates, activations, sums | 1 an element |
| uncounted | all others that compute floating-point numbers | unknown: the report names them |

Complex numbers take four times the operations. Operators that only move numbers cost nothing. With an uncounted
operator, such as a kernel of another library, MFU is unknown.
"""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

aten = torch.ops.aten


def _attention(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)


def _product_in_place(into: Tensor, left: Tensor, right: Tensor, **kwargs: Any) -> int:
    return 2 * left.numel() * right.shape[-1]


def _rnn_cpu(inputs: Tensor, *weights: Any, **kwargs: Any) -> int:
    return _rnn(inputs, weights[:2])


def _rnn(inputs: Tensor, weights: Any, *args: Any, **kwargs: Any) -> int:
    """Two operations for each token and weight of a matrix; vectors are biases."""
    return 2 * inputs.shape[0] * inputs.shape[1] * sum(part.numel() for part in weights if part.ndim == 2)


def _triangular(matrix: Tensor, *args: Any, out_val: Tensor, **kwargs: Any) -> int:
    return matrix.shape[-1] * out_val.numel()


def _fourier(x: Tensor, dims: list[int], *args: Any, out_val: Tensor, **kwargs: Any) -> int:
    numbers, length = max(x.numel(), out_val.numel()), math.prod(max(x.shape[d], out_val.shape[d]) for d in dims)
    # A quarter: at least one side is complex, for which the counter multiplies by four.
    return round((5 if x.is_complex() and out_val.is_complex() else 2.5) / 4 * numbers * math.log2(length))


FORMULAS: dict[Any, Any] = flop_registry | {
    aten.addmm_: _product_in_place,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten.mkldnn_rnn_layer: _rnn_cpu,
    aten._cudnn_rnn: _rnn,
    aten.linalg_solve_triangular: _triangular,
    aten._fft_r2c: _fourier,
    aten._fft_c2r: _fourier,
    aten._fft_c2c: _fourier,
}


def _operators(names: str) -> set[Any]:
    """The operators of these names that this version of PyTorch has."""
    return {getattr(aten, name) for name in names.split() if hasattr(aten, name)}


# Besides the operators that PyTorch tags as such.
ELEMENTWISE = _operators(
    "_fused_rms_norm _log_softmax _softmax _thnn_fused_gru_cell _thnn_fused_lstm_cell amax complex cumsum glu mean "
    "native_layer_norm nll_loss_forward polar sum"
)
# They move, make or select numbers, and compute nothing.
MOVING = _operators(
    "_foreach_copy_ _reshape_alias _to_copy _unsafe_view arange cat clone constant_pad_nd copy_ embedding empty "
    "empty_like eye flip full full_like gather index index_copy_ index_put_ index_select lift_fresh new_empty new_full "
    "new_ones new_zeros ones ones_like repeat resize_ roll scalar_tensor scatter select_scatter set_ slice_scatter "
    "split_with_sizes_copy stack transpose_ tril triu unsafe_split zeros zeros_like"
)


class OperationCounter(TorchDispatchMode):
    """Counts what runs inside `with OperationCounter() as counter:`, by the table above. `uncounted` holds the number
    of calls of each operator that it does not know."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.flops, self.elementwise, self.uncounted = 0, 0, Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, packet = kwargs or {}, getattr(func, "_overloadpacket", func)
        if packet not in FORMULAS and hasattr(func, "decompose"):
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        made = func(*args, **kwargs)
        tensors = [leaf for leaf in tree_leaves((args, made)) if isinstance(leaf, Tensor)]
        results = [leaf for leaf in tree_leaves(made) if isinstance(leaf, Tensor)]
        if packet in FORMULAS:
            flops = FORMULAS[packet](*args, **kwargs, out_val=made)
            self.flops += flops * (4 if any(tensor.is_complex() for tensor in tensors) else 1)
        elif computes(func, packet) and any(part.is_floating_point() or part.is_complex() for part in results):
            tags = {tag.name for tag in getattr(func, "tags", ())}
            # Our own operators are scans (model/cuda/scans.py).
            own = getattr(func, "namespace", "") == "onepass"
            if own or tags & {"pointwise", "reduction"} or packet in ELEMENTWISE:
                self.elementwise += max(tensor.numel() for tensor in tensors)
            else:
                self.uncounted[str(packet)] += 1
        return made


def computes(operator: Any, packet: Any) -> bool:
    """Whether it is more than a view, a move or a message."""
    view, message = getattr(operator, "is_view", False), "c10d" in getattr(operator, "namespace", "")
    return not (view or message or packet in MOVING)


@dataclass(frozen=True)
class Work:
    """Operations by the table above; `uncounted` names the operators that it does not know."""

    flops: int
    elementwise: int
    uncounted: list[str]

    def __add__(self, other: "Work") -> "Work":
        unknown = sorted({*self.uncounted, *other.uncounted})
        return Work(self.flops + other.flops, self.elementwise + other.elementwise, unknown)

    def times(self, number: float) -> "Work":
        return Work(round(self.flops * number), round(self.elementwise * number), self.uncounted)


def forward_work(model: nn.Module, time: int, device: torch.device | None = None, alone: bool = False) -> Work:
    """The work of a forward pass of one row over `time` tokens; if `alone`, of one that is replayed."""
    lm: Any = model
    history = torch.zeros(1, lm.context - 1 + time, dtype=torch.int64, device=device)
    # Operators as they are written: the counter does not see into compiled ones.
    with torch.compiler.set_stance("force_eager"), torch.no_grad(), OperationCounter() as counter:
        lm(history, lm.init_state(1), history[:, (time // 4 if alone else 0) - time :], alone)
    return Work(counter.flops, counter.elementwise, sorted(counter.uncounted))


def forward_flops(model: nn.Module, time: int) -> int:
    """The same, in `flops` only."""
    return forward_work(model, time).flops
