"""Check a block against the block contract, a verdict a line. Run it before the first training.

python launch/check_block.py gru                                   a block of model/registry.py
python launch/check_block.py FOLDER/my_block.py:GatedConv          your own, from a file
python launch/check_block.py mypkg.blocks:GatedConv --width 256    your own, from a package; --model.* as in training

| line | what must hold | why |
|---|---|---|
| shapes | x [B, T, D] gives y [B, T, D], for any B and T; state is a tuple of tensors, rows first | lanes are rows |
| causality | no output depends on a later input, by gradient | a decoder does not have it |
| splits, single tokens | a cut sequence, its state carried, gives the same (1e-10) | archives code single tokens |
| rows | a row does not see the rows beside it | lanes move between ranks |
| determinism | two passes give the same bits | a decoder repeats them |
| gradients | every parameter has one | else it does not learn |
| roles | how each parameter is optimised | Muon for matrices, Adam for the rest |
| start, depth | a new block adds little, and many do not explode | training begins well |
| widths | scales after a few steps do not depend on the width | learning rates transfer from narrow to wide |
| graphs | torch.compile makes one graph, once | speed on CUDA |
| cuda | CUDA gives what the CPU gives | where there is a device |
| parameters, flops, code | sizes; flops is a warning where the counter does not know an operator | sweeps match them |

A module without init_state is given its last model.window inputs again in front of the new ones. If its outputs depend
on more than these, "splits" is a warning: the number says what that costs. All it takes is a minute.

Exit status: 0 the contract holds, 1 it does not, 2 there is no such block, or it cannot be built.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
from launch import entry

entry.begin(__name__)


def make_parser() -> entry.Parser:
    parser = entry.Parser(alone=False, description=__doc__)
    parser.add_argument("name", help="as model.block takes it")
    parser.add_argument("--width", type=int, help="short for --model.width")
    return parser


entry.answer_help(__name__, lambda: make_parser().format_help().rstrip())

from collections.abc import Iterator
from dataclasses import replace

import torch

import model.contract
from data.errors import UsageError
from data.lanes import longest_segment
from data.streams import publish
from eval.canonical import OUR_ROOMS
from eval.code_size import canonical_text, decoder_values, measure_code, pack, unpack
from eval.decoder_imports import NotImportable
from model.contract import Finding, check_behaviour, check_widths, shape_config, try_check, watch_scales
from model.lm import LanguageModel
from model.registry import BLOCKS, display_name
from train.command_line import parse_config
from train.config import BYTE_SYMBOLS, Config
from train.flops import forward_work
from train.optim import build_optimizer

MARKS = {"ok": "ok", "warning": "WARNING", "failed": "FAILED"}
# Narrow enough for seconds; heads divide them.
LEAST_WIDTH, WIDTHS = 32, (1, 2, 4)
STEPS, LANES, SEGMENT = 8, 4, 32


def main(arguments: list[str]) -> int:
    """Returns the exit status: 0 the contract holds, 1 it does not, 2 bad arguments or no such block."""
    return entry.exit_status(lambda: check(arguments))


def check(arguments: list[str]) -> int:
    config = parse(arguments)
    publish(f"{config.model.block} at width {config.model.width}")
    torch.use_deterministic_algorithms(True)
    worst = "ok"
    for finding in findings(config):
        publish(f"  {finding.check:<15}{MARKS[finding.verdict]:<9}{finding.found}")
        if finding.remedy:
            publish(f"{'':26}{finding.remedy}")
        worst = max(worst, finding.verdict, key=list(MARKS).index)
    name = display_name(config.model.block)
    publish({"ok": f"{name} holds the contract.", "warning": f"{name} holds the contract; mind the warnings.",
             "failed": f"{name} does not hold the contract."}[worst])  # fmt: skip
    return int(worst == "failed")


def parse(arguments: list[str]) -> Config:
    """A configuration whose only block is the one to check. Raises UsageError for what is no block."""
    options, given = make_parser().parse_known_args(arguments)
    entry.refuse_owned(given, {"model.block": "give the block's name alone"}, "check_block")
    width = [f"--model.width={options.width}"] if options.width is not None else []
    config = parse_config("", [f"--model.block={options.name}", *width, *given])
    if len(config.model.block.split()) != 1:
        raise UsageError(f"{options.name!r} is a pattern: check one block at a time")
    return replace(config, model=shape_config(config.model))


def findings(config: Config) -> Iterator[Finding]:
    """Of all checks, one after the other."""
    yield from check_behaviour(config.model)
    yield try_check("widths", lambda: check_trained_widths(config))
    yield try_check("parameters", lambda: count_parameters(config))
    yield try_check("flops", lambda: count_flops(config))
    yield try_check("code", lambda: code_share(config))


def check_trained_widths(config: Config) -> Finding:
    """Train a model of each width for a few steps over the source of the contract, and look at its scales."""
    text = torch.tensor(list(Path(str(model.contract.__file__)).read_bytes()[: LANES * (STEPS * SEGMENT + 1)]))
    least = config.model.head_width * -(-LEAST_WIDTH // config.model.head_width)
    tokens, widths, rows = text.view(LANES, -1), [factor * least for factor in WIDTHS], []
    for width in widths:
        torch.manual_seed(config.train.seed)
        wider = replace(config.model, width=width)
        learner = LanguageModel(wider, BYTE_SYMBOLS)
        optimizer, state = build_optimizer(learner, config.train, width), learner.init_state(LANES)
        found: dict[str, float] = {}
        with watch_scales(learner, found):
            for step in range(STEPS):
                part = tokens[:, step * SEGMENT : (step + 1) * SEGMENT + 1]
                nats, state = learner(part[:, :-1], state, part[:, 1:])
                nats.mean().backward()
                optimizer.step()
                optimizer.zero_grad()
        rows.append(found)
    return check_widths(widths, rows)


def one_and_two(config: Config) -> list[LanguageModel]:
    """Models with one layer and with two, whose difference is a block."""
    return [LanguageModel(replace(config.model, depth=depth, expansion=0.0), BYTE_SYMBOLS) for depth in (1, 2)]


def count_parameters(config: Config) -> Finding:
    one, two = (sum(p.numel() for p in model.parameters()) for model in one_and_two(config))
    return Finding("parameters", "ok", f"{two - one:,} a block")


def count_flops(config: Config) -> Finding:
    """Arithmetic a token, in segments of the length that training takes."""
    length = longest_segment(config.train.segment_tokens)
    one, two = (forward_work(model, length) for model in one_and_two(config))
    flops, elementwise = ((b - a) / length for a, b in ((one.flops, two.flops), (one.elementwise, two.elementwise)))
    found = f"{flops:,.0f} a token in matrix products and the like, {elementwise:,.0f} elementwise"
    if two.uncounted:
        remedy = "MFU and --match flops need their arithmetic: take operators of PyTorch that train/flops.py counts"
        return Finding("flops", "warning", f"{found}; uncounted: {', '.join(two.uncounted)}", remedy)
    return Finding("flops", "ok", found)


def code_share(config: Config) -> Finding:
    """What the block's own modules add to the code term."""
    try:
        packed = measure_code(decoder_values(config, None, {}) | {"data": {"tokenizer": "bytes"}}).packed
    except NotImportable as error:
        return Finding("code", "failed", str(error), "what the block needs must be importable when it is built")
    values, sources = unpack(packed)
    block = config.model.block
    own = {f"model/blocks/{block}.py"}
    if block not in BLOCKS:
        top = lambda path: path.removesuffix(".py").split("/")[0]  # noqa: E731
        own = {path for path in sources if path == "model/adapter.py" or top(path) not in OUR_ROOMS}
    rest = pack(canonical_text(values, {path: source for path, source in sources.items() if path not in own}))
    found = f"{len(packed) - len(rest):,} of {len(packed):,} bytes of the code term, in {', '.join(sorted(own))}"
    return Finding("code", "ok", found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
