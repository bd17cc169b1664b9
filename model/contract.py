"""The block contract (docs/your-architecture.md) as checks, each of which gives a Finding. launch/check_block.py prints
them and tests call them.

Blocks are checked in double precision, with parameters moved away from where they begin (`stir`): an output matrix
of zeros would make every comparison trivial. Shapes: `B` rows, `T` time, `D` width.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from model.adapter import Stateless
from model.cuda import use_kernels
from model.lm import LanguageModel
from model.own_block import give_reason, wrong_state
from model.registry import load_block

TOLERANCE = 1e-10
ROLES = ("matrix", "table", "vector")
# Ways to cut 23 tokens.
CUTS = ([1] * 23, [11, 12], [1, 7, 15], [20, 1, 2], [6, 8, 9])


@dataclass(frozen=True)
class Finding:
    """What a check found, and what to change if it is not good."""

    check: str
    verdict: Literal["ok", "warning", "failed"]
    found: str
    remedy: str = ""


def verdict(check: str, good: bool, found: str, remedy: str) -> Finding:
    return Finding(check, "ok", found) if good else Finding(check, "failed", found, remedy)


def stir(block: nn.Module) -> nn.Module:
    """A block in double precision, with every parameter moved at random. A convolution or another tensor of more
    dimensions moves by as much as a matrix."""
    block = block.double()
    with torch.no_grad():
        for p in block.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return block


def run_cut(block: Any, x: Tensor, cuts: Sequence[int]) -> Tensor:
    """Outputs [B, T, D] of x, given in segments of these lengths."""
    state, parts = block.init_state(len(x)), []
    for part in x.split(list(cuts), 1):
        y, state = block(part, state)
        parts.append(y)
    return torch.cat(parts, 1)


def outputs_and_gradients(block: Any, x: Tensor, weight: Tensor, cuts: Sequence[int]) -> list[Tensor]:
    """Outputs, and gradients of their sum by `weight`, for x and for every parameter, on the CPU."""
    inputs = x.detach().requires_grad_()
    y = run_cut(block, inputs, cuts)
    wanted = [inputs, *(p for p in block.parameters() if p.requires_grad)]
    gradients = torch.autograd.grad((y * weight).sum(), wanted, allow_unused=True, materialize_grads=True)
    return [part.detach().cpu() for part in (y, *gradients)]


def largest_difference(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    """Between tensors in pairs, as a fraction of the largest number of a tensor where that is above 1."""
    pairs = zip(left, right, strict=True)
    return max(float((a - b).abs().max()) / max(1.0, float(a.abs().max())) for a, b in pairs if a.numel())


def parameters_of(block: Any) -> list[tuple[str, Any]]:
    """Its parameters by the names that its author knows."""
    return [*(block.block if isinstance(block, Stateless) else block).named_parameters()]


def check_shapes(block: Any, width: int) -> Finding:
    """[B, T, D] to [B, T, D] for several B and T, and a state that stays a tuple of tensors with the rows first."""
    problem, changing, numbers = "", False, [part for part in block.init_state(1) if isinstance(part, (int, float))]
    with torch.no_grad():
        for batch, time in ((1, 1), (2, 5), (3, 1)):
            x, state = torch.randn(batch, time, width, dtype=torch.float64), block.init_state(batch)
            y, after = block(x, state)
            state, after = (tuple(part for part in one if not isinstance(part, (int, float))) for one in (state, after))
            problem = problem or wrong_state(after, batch, "forward")
            if y.shape != x.shape:
                problem = problem or f"for x {list(x.shape)} it returns {list(y.shape)}"
            changing = changing or [part.shape for part in after] != [part.shape for part in state]
    sizes = ", ".join(str(list(part.shape[1:])) for part in state) or "nothing"
    found = f"[B, T, {width}] as it came; state a row: {sizes}"
    if numbers and not problem:
        remedy = "make it a tensor: torch.compile makes a graph for each value"
        return Finding("shapes", "warning", f"{found}, and a number", remedy)
    if changing and not problem:
        remedy = "keep them where you can: torch.compile makes a graph for each shape"
        return Finding("shapes", "warning", f"{found}; its shapes change", remedy)
    return verdict("shapes", not problem, problem or found, "keep the shapes of x and of the state")


def check_causality(block: Any, width: int) -> Finding:
    """No output depends on a later input, by gradient; every output depends on its own."""
    x = torch.randn(1, 9, width, dtype=torch.float64, requires_grad=True)
    for cuts in ([9], [4, 5]):
        y = run_cut(block, x, cuts)
        for t in range(9):
            (gradient,) = torch.autograd.grad(y[0, t].sum(), x, retain_graph=True)
            if later := gradient[0, t + 1 :].abs().sum(1).nonzero().flatten().tolist():
                found = f"output {t} depends on input {t + 1 + later[0]}"
                return Finding("causality", "failed", found, "mask what comes later: a decoder does not have it")
            if not gradient[0, t].abs().sum() > 0:
                found = f"output {t} does not depend on input {t}"
                return Finding("causality", "failed", found, "the token of a position is known to it: use it")
    return Finding("causality", "ok", "no output depends on a later input")


def check_splits(
    block: Any, width: int, cuts: Sequence[Sequence[int]] = CUTS, device: torch.device | None = None
) -> Finding:
    """Any split of 23 tokens gives the outputs and gradients of one segment on the CPU. Of a module without state, the
    error is what its last inputs cannot tell it: a cost, and no failure."""
    name = "single tokens" if list(map(max, cuts)) == [1] else "splits"
    x, weight = (torch.randn(3, 23, width, dtype=torch.float64) for _ in range(2))
    device = device or torch.device("cpu")
    stateless = isinstance(block, Stateless)
    worst, worst_cuts = 0.0, [23]
    with torch.set_grad_enabled(not stateless):
        whole = [run_cut(block, x, [23])] if stateless else outputs_and_gradients(block, x, weight, [23])
        if not whole[0].abs().max() > 0:
            return Finding(name, "failed", "all outputs are zero", "let outputs depend on inputs")
        block = block.to(device)
        if device.type == "cuda":
            use_kernels(block)
        for one in cuts:
            there = x.to(device)
            parts = [run_cut(block, there, one).cpu()] if stateless else outputs_and_gradients(
                block, there, weight.to(device), one
            )  # fmt: skip
            error = largest_difference(whole, parts)
            if not error <= worst:
                worst, worst_cuts = error, list(one)
        block = block.to("cpu")
    tolerance = TOLERANCE if device.type == "cpu" else 1e-8
    shown = "23 single tokens" if max(worst_cuts) == 1 else f"segments of {', '.join(map(str, worst_cuts))}"
    found = f"largest error {worst:.1e}" + ("" if worst <= tolerance else f", with {shown}")
    if worst <= tolerance:
        return Finding(name, "ok", found)
    if stateless:
        rms = float(whole[0].square().mean().sqrt())
        found = f"{found}; outputs have a root mean square of {rms:.2g}"
        remedy = "outputs depend on more than model.window inputs, or on positions in them: a longer window, or a state"
        return Finding(name, "warning", found, remedy)
    return Finding(name, "failed", found, "carry in the state everything that later outputs need, also gradients")


def check_rows(block: Any, width: int) -> Finding:
    """A row's outputs do not depend on the rows beside it."""
    x = torch.randn(4, 12, width, dtype=torch.float64)
    with torch.no_grad():
        together = run_cut(block, x, [5, 7])
        alone = torch.cat([run_cut(block, row, [5, 7]) for row in x.split(1)])
    error = largest_difference([together], [alone])
    remedy = "compute nothing over the batch: lanes move between ranks by their rows"
    return verdict("rows", error < TOLERANCE, f"a row alone differs by {error:.1e}", remedy)


def check_determinism(block: Any, width: int) -> Finding:
    """The same inputs give the same bits, in training mode, as a decoder repeats them."""
    x = torch.randn(2, 12, width, dtype=torch.float64)
    block.train()
    with torch.no_grad():
        first, second = (run_cut(block, x, [12]) for _ in range(2))
    error = largest_difference([first], [second])
    remedy = "no dropout and no random numbers in forward, and no counters that change"
    return verdict("determinism", torch.equal(first, second), f"two passes differ by {error:.1e}", remedy)


def check_gradients(block: Any, width: int) -> Finding:
    """Every parameter gets a gradient, and all are finite numbers."""
    x, weight = (torch.randn(3, 23, width, dtype=torch.float64) for _ in range(2))
    names = [name for name, p in parameters_of(block) if p.requires_grad]
    gradients = outputs_and_gradients(block, x, weight, [11, 12])[2:]
    good = [bool(one.isfinite().all() and one.abs().max() > 0) for one in gradients]
    bad = [name for name, fine in zip(names, good, strict=True) if not fine]
    found = f"no finite one for {', '.join(bad)}" if bad else f"all {len(names)} parameters have one"
    return verdict("gradients", not bad, found, "use the parameter in forward, or remove it")


def check_roles(block: Any) -> Finding:
    """How each parameter is optimised. Tensors of two dimensions that are vectors may be meant otherwise."""
    named = parameters_of(block)
    listed = {role: [name for name, p in named if p.role == role] for role in ROLES}
    odd = [n for n, p in named if p.role not in ROLES or (p.role == "matrix" and p.ndim != 2)]
    found = "; ".join(f"{role}: {', '.join(names)}" for role, names in listed.items() if names) or "no parameters"
    if odd:
        return Finding("roles", "failed", f"{odd[0]} has none that fits", "a matrix has two dimensions")
    unsure = [n for n, p in named if hasattr(p, "order") and p.ndim == 2]
    if unsure := [n for n in unsure if n in listed["vector"]]:
        remedy = f"if {unsure[0]} is a linear map, declare it: model.layers.parameter(tensor, 'matrix')"
        return Finding("roles", "warning", found, remedy)
    return Finding("roles", "ok", found)


def check_start(block: Any, width: int) -> Finding:
    """What a new block adds to a residual stream of scale 1. `block` is as it was built."""
    x = torch.randn(8, 64, width, dtype=torch.float64)
    with torch.no_grad():
        y = run_cut(block.double(), x, [64])
    scale = float(y.square().mean().sqrt())
    if not scale < 10:
        remedy = "start the last matrix at zero, or divide it by the root of its inputs"
        return Finding("start", "failed", f"a new block's outputs have a root mean square of {scale:.2g}", remedy)
    if scale == 0:
        return Finding("start", "ok", "a new block adds nothing: the layer begins as the identity")
    return Finding("start", "ok", f"a new block's outputs have a root mean square of {scale:.2g}")


def check_depth(config: Any, depth: int = 16) -> Finding:
    """The residual stream after so many new layers, whose first input has scale 1."""
    model = LanguageModel(shape_config(config, depth=depth), 64).double()
    found: dict[str, float] = {}
    with torch.no_grad(), watch_scales(model, found):
        tokens = torch.randint(64, (4, 33))
        model(tokens[:, :-1], model.init_state(4), tokens[:, 1:])
    last = found[f"stream {depth - 1}"]
    text = f"after {depth} new layers the stream has a root mean square of {last:.2g}, before them 1"
    remedy = f"what a new layer adds grows with depth: start the last matrix smaller, or at zero ({depth} layers)"
    return verdict("depth", last < 4 * depth**0.5, text, remedy)


@contextmanager
def watch_scales(model: Any, found: dict[str, float]) -> Iterator[None]:
    """Within it, `found` holds the root mean square of the latest output of every part of a LanguageModel."""
    parts = {"logits": model}
    for depth, layer in enumerate(model.layers):
        parts |= {f"block {depth}": layer.block, f"mlp {depth}": layer.mlp, f"stream {depth}": layer}
    handles = []
    for name, part in parts.items():

        def note(_: object, __: object, output: Any, name: str = name) -> None:
            value = output[0] if isinstance(output, tuple) else output
            found[name] = value.detach().double().square().mean().sqrt().item()

        handles += [] if part is None else [part.register_forward_hook(note)]
    yield
    for handle in handles:
        handle.remove()


def shape_config(config: Any, **changes: Any) -> Any:
    """A copy of a ModelConfig without context mixing, and with these changes."""
    return type(config)(**vars(config) | {name: [] for name in config.context_lists} | changes)


def slopes(widths: Sequence[int], rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Of each scale in `rows`, a row for each width: the slope of its logarithm in that of the width."""
    x = torch.tensor(widths, dtype=torch.float64).log()
    x = x - x.mean()
    return {
        name: float(x @ torch.tensor([row[name] for row in rows], dtype=torch.float64).log() / x.square().sum())
        for name in rows[0]
    }


def check_widths(widths: Sequence[int], rows: Sequence[dict[str, float]]) -> Finding:
    """A coordinate check (Yang et al. 2022, arXiv:2203.03466, appendix D.1): scales after a few steps of training, as
    watch_scales finds them, a row for each width."""
    steep = {name: slope for name, slope in slopes(widths, rows).items() if name.split()[0] in ("block", "stream")}
    worst = max(steep, key=lambda name: abs(steep[name]))
    scales = ", ".join(f"{row[worst]:.3g}" for row in rows)
    found = f"steepest: {worst}, {scales} at widths {', '.join(map(str, widths))}, slope {steep[worst]:+.2f}"
    if abs(steep[worst]) < 0.4:
        return Finding("widths", "ok", found)
    remedy = (
        "scales should not depend on the width: draw matrices with a variance of 1 / inputs, and give linear maps the "
        "role matrix"
    )
    return Finding("widths", "warning", found, remedy)


def check_graphs(make: Callable[[], Any], width: int, time: int = 8) -> Finding:
    """torch.compile makes one graph of the block, at the first segment and at no later one."""
    torch._dynamo.reset()
    counter, block = CompileCounterWithBackend("eager"), make()
    remedy = "no Python numbers in the state, no .item(), no branches on values, one shape and dtype of the state"
    state, counts = block.init_state(2), []
    breaks = torch._dynamo.utils.counters["graph_break"]
    breaks.clear()
    try:
        compiled = torch.compile(block, backend=counter, dynamic=False)
        for _ in range(4):
            y, state = compiled(torch.randn(2, time, width), state)
            y.sum().backward()
            state = tuple(part.detach() if isinstance(part, Tensor) else part for part in state)
            counts.append(counter.frame_count)
    except Exception as error:
        return Finding("graphs", "failed", f"torch.compile fails ({give_reason(error)})", remedy)
    finally:
        torch._dynamo.reset()
    found = f"{counts[0]} for the first segment, {counts[-1] - counts[0]} for the next three"
    if counts[-1] > counts[0]:
        return Finding("graphs", "failed", found, f"it is compiled again and again: {remedy}")
    if counts[0] > 1:
        why = " ".join(str(next(iter(breaks), "a break")).split()).split(" Explanation")[0]
        return Finding("graphs", "warning", f"{found} ({why})", "slower on CUDA: one graph is best")
    return Finding("graphs", "ok", found)


def check_device(block: Any, width: int, device: torch.device) -> Finding:
    """The device gives what the CPU gives, in double precision, with deterministic operators."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        found = check_splits(block, width, [[23], [11, 12]], device)
    except RuntimeError as error:
        return Finding(
            str(device), "failed", give_reason(error), "take operators that CUDA has in a deterministic form"
        )
    finally:
        torch.use_deterministic_algorithms(before)
        block.to("cpu")
    return Finding(str(device), found.verdict, found.found, found.remedy)


def check_behaviour(config: Any) -> Iterator[Finding]:
    """All of these, of the block that `config` names, except what needs training."""
    make = load_block(config.block)

    def moved() -> Any:
        torch.manual_seed(1)
        return stir(make(config))

    def new() -> Any:
        torch.manual_seed(1)
        return make(config)

    width = config.width
    checks: dict[str, Callable[[], Finding]] = {
        "shapes": lambda: check_shapes(moved(), width),
        "causality": lambda: check_causality(moved(), width),
        "splits": lambda: check_splits(moved(), width, CUTS[1:]),
        "single tokens": lambda: check_splits(moved(), width, CUTS[:1]),
        "rows": lambda: check_rows(moved(), width),
        "determinism": lambda: check_determinism(moved(), width),
        "gradients": lambda: check_gradients(moved(), width),
        "roles": lambda: check_roles(new()),
        "start": lambda: check_start(new(), width),
        "depth": lambda: check_depth(config),
        "graphs": lambda: check_graphs(new, width),
    }
    if torch.cuda.is_available():
        checks["cuda"] = lambda: check_device(moved(), width, torch.device("cuda"))
    for name, check in checks.items():
        yield try_check(name, check)


def try_check(name: str, check: Callable[[], Finding]) -> Finding:
    """What a check finds; an error in the block is a finding, too."""
    try:
        return check()
    except Exception as error:
        remedy = "correct it there; blocks are checked in double precision, so take dtype and device from x"
        return Finding(name, "failed", give_reason(error), remedy)
