# mypy: disallow-untyped-defs=False
"""A selective scan as one Triton kernel each way: the states stay in registers.

    h[t] = exp(step[t] rate) h[t - 1] + keys[t] writes[t],  y[t] = sum over N of queries[t] h[t]

Each program goes through all tokens of one row, for BLOCK channels. The first kernel keeps the states before every
SPAN-th token; the second goes back span by span, works out the states of a span once more and leaves them in `history`.
Sums over channels or rows have one part a program and are added in a fixed order.

Shapes: `B` rows, `T` time, `I` channels, `N` states of a channel, `S` spans of time.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK, SPAN = 32, 64


@triton.jit
def go_forward(
    step, writes, keys, queries, rate, hidden, y, last, starts,
    time: tl.constexpr, width: tl.constexpr, size: tl.constexpr,
    span: tl.constexpr, states: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row, n = tl.program_id(0).to(tl.int64), tl.arange(0, states)
    i = tl.program_id(1) * block + tl.arange(0, block)
    both, seen, some = (n[:, None] < size) & (i < width), i < width, n < size
    place, area = n[:, None] * width + i, size * width
    speed = tl.load(rate + place, both, 0.0)
    h = tl.load(hidden + row * area + place, both, 0.0)
    for first in range(0, time, span):
        tl.store(starts + (row * tl.cdiv(time, span) + first // span) * area + place, h, both)
        for t in tl.range(first, min(first + span, time), num_stages=4):
            at = row * time + t
            s = tl.load(step + at * width + i, seen, 0.0)
            w = tl.load(writes + at * width + i, seen, 0.0)
            k = tl.load(keys + at * size + n, some, 0.0)
            q = tl.load(queries + at * size + n, some, 0.0)
            h = tl.exp(s * speed) * h + k[:, None] * w
            tl.store(y + at * width + i, tl.sum(q[:, None] * h, 0), seen)
    tl.store(last + row * area + place, h, both)


@triton.jit
def go_back(
    step, writes, keys, queries, rate, starts, by_y, by_last, history,
    by_step, by_writes, by_keys, by_queries, by_rate, by_hidden,
    time: tl.constexpr, width: tl.constexpr, size: tl.constexpr,
    span: tl.constexpr, states: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row, n = tl.program_id(0).to(tl.int64), tl.arange(0, states)
    i = tl.program_id(1) * block + tl.arange(0, block)
    both, seen, some = (n[:, None] < size) & (i < width), i < width, n < size
    place, area = n[:, None] * width + i, size * width
    part = (tl.program_id(1) * tl.num_programs(0) + row) * time
    speed = tl.load(rate + place, both, 0.0)
    by_h = tl.load(by_last + row * area + place, both, 0.0)
    by_speed = tl.zeros_like(speed)
    for first in range((time - 1) // span * span, -1, -span):
        h = tl.load(starts + (row * tl.cdiv(time, span) + first // span) * area + place, both, 0.0)
        for t in tl.range(first, min(first + span, time), num_stages=4):
            at = row * time + t
            s = tl.load(step + at * width + i, seen, 0.0)
            w = tl.load(writes + at * width + i, seen, 0.0)
            k = tl.load(keys + at * size + n, some, 0.0)
            tl.store(history + (row * span + t - first) * area + place, h, both)
            h = tl.exp(s * speed) * h + k[:, None] * w
        # Other threads may have written what a thread reads.
        tl.debug_barrier()
        for t in tl.range(min(first + span, time) - 1, first - 1, -1, num_stages=4):
            at = row * time + t
            s = tl.load(step + at * width + i, seen, 0.0)
            w = tl.load(writes + at * width + i, seen, 0.0)
            k = tl.load(keys + at * size + n, some, 0.0)
            q = tl.load(queries + at * size + n, some, 0.0)
            g = tl.load(by_y + at * width + i, seen, 0.0)
            before = tl.load(history + (row * span + t - first) * area + place, both, 0.0)
            decay = tl.exp(s * speed)
            h = decay * before + k[:, None] * w
            tl.store(by_queries + (part + t) * size + n, tl.sum(h * g, 1), some)
            by_h += q[:, None] * g
            tl.store(by_keys + (part + t) * size + n, tl.sum(by_h * w, 1), some)
            tl.store(by_writes + at * width + i, tl.sum(by_h * k[:, None], 0), seen)
            by_h *= decay
            tl.store(by_step + at * width + i, tl.sum(by_h * before * speed, 0), seen)
            by_speed += by_h * before * s
        tl.debug_barrier()
    tl.store(by_rate + row * area + place, by_speed, both)
    tl.store(by_hidden + row * area + place, by_h, both)


def launch(kernel: Any, tensors: list[Tensor], rate: Tensor, batch: int, time: int) -> None:
    size, width = rate.shape
    states = triton.next_power_of_2(size)
    grid = batch, triton.cdiv(width, BLOCK)
    kernel[grid](*tensors, time, width, size, min(SPAN, time), states, BLOCK, num_warps=max(1, states * BLOCK // 512))


@torch.library.custom_op("onepass::selective_scan", mutates_args=())
def selective_scan(
    step: Tensor, writes: Tensor, keys: Tensor, queries: Tensor, rate: Tensor, hidden: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """y [B, T, I], the last h [B, N, I] and the states before each span [B, S, N, I], of step and writes [B, T, I],
    keys and queries [B, T, N], rate [N, I] and hidden [B, N, I]."""
    inputs = [part.contiguous() for part in (step, writes, keys, queries, rate, hidden)]
    outputs = empty(*inputs)
    launch(go_forward, [*inputs, *outputs], rate, *step.shape[:2])
    return outputs


@selective_scan.register_fake
def empty(
    step: Tensor, writes: Tensor, keys: Tensor, queries: Tensor, rate: Tensor, hidden: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    batch, time, _ = step.shape
    return (
        step.new_empty(step.shape),
        hidden.new_empty(hidden.shape),
        hidden.new_empty(batch, -(-time // SPAN), *rate.shape),
    )


@torch.library.custom_op("onepass::selective_scan_backward", mutates_args=())
def gradients(
    step: Tensor,
    writes: Tensor,
    keys: Tensor,
    queries: Tensor,
    rate: Tensor,
    starts: Tensor,
    by_y: Tensor,
    by_last: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """By the inputs of `selective_scan`."""
    (batch, time, width), size = step.shape, len(rate)
    inputs = [part.contiguous() for part in (step, writes, keys, queries, rate, starts, by_y, by_last)]
    by_keys, by_queries = keys.new_empty(2, triton.cdiv(width, BLOCK), batch, time, size)
    history, by_rate = rate.new_empty(batch, min(SPAN, time), *rate.shape), rate.new_empty(batch, *rate.shape)
    by_step, by_writes, by_hidden = (
        torch.empty_like(inputs[0]),
        torch.empty_like(inputs[1]),
        torch.empty_like(inputs[7]),
    )
    outputs = [by_step, by_writes, by_keys, by_queries, by_rate, by_hidden]
    launch(go_back, [*inputs, history, *outputs], rate, batch, time)
    return by_step, by_writes, by_keys.sum(0), by_queries.sum(0), by_rate.sum(0), by_hidden


@gradients.register_fake
def like_inputs(*inputs: Tensor) -> tuple[Tensor, ...]:
    return tuple(part.new_empty(part.shape) for part in (*inputs[:5], inputs[7]))


def save(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:5], output[2])


def backward(ctx: Any, by_y: Tensor, by_last: Tensor, _: Tensor) -> tuple[Tensor, ...]:
    return gradients(*ctx.saved_tensors, by_y, by_last)


selective_scan.register_autograd(backward, setup_context=save)
