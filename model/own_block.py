"""Is there a class of the name PACKAGE.MODULE:CLASS, and can a block be built of it? `block_problem` says so in a line,
before any work. model/contract.py checks how the block behaves.
"""

import difflib
import traceback
from importlib import import_module
from inspect import getfullargspec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model.adapter import Stateless, build


def block_problem(name: str, config: Any) -> str:
    """What is wrong with a block MODULE:CLASS at this ModelConfig, in a line with its remedy; empty if nothing is."""
    module, _, kind = name.partition(":")
    if not kind.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        return "a block of your own is PACKAGE.MODULE:CLASS or FILE.py:CLASS"
    try:
        found = getattr(import_module(module), kind, None)
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            return f"there is no module {error.name}: install its package, or name the file, FOLDER/my_block.py:{kind}"
        return f"importing {module} fails ({give_reason(error)}): install what it imports"
    except (Exception, SystemExit) as error:
        return f"importing {module} fails ({give_reason(error)}): correct it there"
    if found is None:
        close = difflib.get_close_matches(kind, dir(import_module(module)), 1)
        return f"{module} has no class {kind}{f'. Did you mean {close[0]}?' if close else ': name one that it has'}"
    if not isinstance(found, type) or not issubclass(found, nn.Module):
        return f"{kind} is no class of PyTorch modules: derive it from torch.nn.Module"
    return unbuildable(found, config)


def unbuildable(kind: Any, config: Any) -> str:
    """The same of a class."""
    spec = getfullargspec(kind.__init__)
    required = spec.args[1 : len(spec.args) - len(spec.defaults or ())]
    required += [name for name in spec.kwonlyargs if name not in (spec.kwonlydefaults or {})]
    if unknown := [name for name in required if name not in vars(config) | {"config": 0}]:
        return (
            f"its constructor needs {unknown[0]!r}, which is no field of ModelConfig: take width or other fields by "
            "their names, or config, and give the rest defaults"
        )
    try:
        with torch.device("meta"):
            block = build(kind, config)
    except ValueError as error:
        return str(error) if "model." in str(error) else f"it cannot be built ({give_reason(error)}): correct it there"
    except Exception as error:
        return f"it cannot be built at model.width {config.width} ({give_reason(error)}): correct it there"
    if not isinstance(block, Stateless) and len(getfullargspec(kind.forward).args) < 3 and not varargs(kind.forward):
        return "it has init_state, so forward must take a state, too: forward(x, state) -> (y, state)"
    try:
        with torch.device("meta"), torch.no_grad():
            return wrong_shapes(block, config.width)
    except Exception as error:
        problem = give_reason(error)
    # Some modules look at numbers, which tensors without memory do not have.
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            return wrong_shapes(build(kind, config), config.width)
    except Exception:
        return f"a forward pass over [2, 3, {config.width}] fails ({problem}): correct it there"


def varargs(function: Any) -> bool:
    return getfullargspec(function).varargs is not None


def wrong_shapes(block: Any, width: int) -> str:
    """What is wrong with the shapes that a block gives for [2, 3, D]; empty if nothing is."""
    x, state = torch.zeros(2, 3, width), block.init_state(2)
    if problem := wrong_state(state, 2, "init_state(2)"):
        return problem
    made = block(x, state)
    if not isinstance(made, tuple) or len(made) != 2:
        return f"forward(x, state) must return (y, state), and returns {kind_of(made)}"
    y, after = made
    if not isinstance(y, Tensor) or y.shape != x.shape:
        shape = list(y.shape) if isinstance(y, Tensor) else kind_of(y)
        return f"for x [2, 3, {width}] it returns {shape}: return a tensor of the shape of x"
    return wrong_state(after, 2, "forward")


def wrong_state(state: Any, batch: int, source: str) -> str:
    if not isinstance(state, tuple) or not all(isinstance(part, Tensor) for part in state):
        return f"the state from {source} must be a tuple of tensors, and is {kind_of(state)}: as (memory,)"
    # A number that all rows share has no rows.
    if odd := [part for part in state if part.ndim and batch not in part.shape]:
        return f"the state from {source} has a tensor {list(odd[0].shape)} for {batch} rows: put the rows first"
    return ""


def kind_of(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {', '.join(type(part).__name__ for part in value) or 'nothing'}"
    return f"a {type(value).__name__}"


def give_reason(error: BaseException) -> str:
    """An error in a line, with the place in the user's own code."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if foreign(frame.filename)]
    where = f", {Path(frames[-1].filename).name} line {frames[-1].lineno}" if frames else ""
    text = " ".join(str(error).split())[:200]
    if isinstance(error, SyntaxError) and error.filename:
        text, where = str(error.msg), f", {Path(error.filename).name} line {error.lineno}"
    return f"{type(error).__name__}: {text}{where}"


def foreign(file: str) -> bool:
    """Whether a file is neither ours nor of Python or PyTorch."""
    ours = [str(Path(__file__).parent), str(Path(torch.__file__).parent), str(Path(traceback.__file__).parent)]
    return not file.startswith((*ours, "<"))
