"""A finished model, with which the loop codes as it is, without learning."""

import hashlib
import lzma
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.errors import UsageError
from data.lanes import WHOLE_LOGITS, Lanes
from data.shards import MAX_ENCODING_BYTES
from data.tokenizer import Tokenizer, load_tokenizer
from data.tokenizer_files import KINDS
from model.build import build_model
from model.lm import LanguageModel
from model.parts import compute_in_parts
from train.checkpoint import checkpoint_tensors
from train.command_line import CONFIG_FILE, load_config
from train.config import Config
from train.engine import Place
from train.own_blocks import block_problems
from train.run_dir import CHECKPOINTS, TOKENIZER_FILE


class FrozenLearner:
    """What the loop and code_segment ask of a Learner, by a model whose parameters and tables of counts stay as they
    are: only the state of its lanes moves on."""

    # It counts nothing. Who does may leave what the counts said before a step in `looked`, as Learner has it.
    chunk = None

    def __init__(self, config: Config, model: LanguageModel, start: int, lanes: int, place: Place, own: bool = False):
        """`own` says that it codes the corpus of its training again, in the same lanes. To other text, what the counts
        of these lanes say is misleading: it gets lanes that have no counts."""
        self.config, self.place, self.rows = config.train, place, lanes
        self.first = 0 if own else config.train.lanes
        self.model = model.to(place.device)
        if place.device.type == "cuda" and config.engine.kernels == "on":
            from model.cuda import use_kernels

            use_kernels(model)
        self.looked: list[Tensor] = []
        self.begin_state()
        self.recent = torch.full((lanes, model.context), start, device=place.device)

    def begin_state(self) -> None:
        self.states = [self.model.init_state(self.rows, self.first)]

    @torch.inference_mode()
    def see(self, recent: Tensor, states: list[Any]) -> tuple[list[Any], list[Any]]:
        """Learner.see, of one micro-batch."""
        seen, state = self.model(recent, states[0])
        return [seen], [state]

    @torch.inference_mode()
    def following(self, seen: list[Any], node: Tensor, digit: int) -> Tensor:
        return self.model.following(seen[0], node, digit)

    @torch.no_grad()
    def learn(self, targets: Tensor, lanes: Lanes, step: int) -> Tensor:
        """Nats [R, T] of targets [R, T], by the parallel form; nothing is learned."""
        # Forms for CUDA have parts of their own.
        if targets.numel() * self.model.vocabulary > WHOLE_LOGITS and not hasattr(self.model, "part_logits"):
            compute_in_parts(self.model)
        history = torch.cat([self.recent, targets.clamp(min=0)], 1)
        self.recent = history[:, -self.model.context :]
        nats, self.states[0] = self.model(history[:, :-1], self.states[0], targets, False, self.looked)
        self.looked = []
        return nats


def load_frozen(run_dir: Path) -> tuple[Config, LanguageModel, Tokenizer]:
    """The model of a run as its latest checkpoint has it, with its configuration and tokenizer.

    Raises UsageError if the directory does not hold them, or something in it is damaged.
    """
    path = run_dir / TOKENIZER_FILE
    if not (run_dir / CONFIG_FILE).exists() or not path.exists():
        raise UsageError(f"{run_dir} holds no run: give the run.dir of one that launch/train.py finished")
    if path.stat().st_size > MAX_ENCODING_BYTES:
        raise UsageError(f"{path} is larger than any tokenizer")
    config = load_config(run_dir / CONFIG_FILE)
    try:
        kind = config.data.tokenizer if config.data.tokenizer in KINDS else "file"
        kind = "tokens" if config.data.source.startswith("tokens:") else kind
        tokenizer = load_tokenizer(kind, path.read_bytes())
    except (IndexError, ValueError, lzma.LZMAError):
        raise UsageError(f"{path} is damaged: it is no encoding of a tokenizer") from None
    for problem in block_problems(config.model):
        raise UsageError(f"{run_dir}: {problem}")
    model: LanguageModel = build_model(config.model, tokenizer.vocabulary)
    tensors = checkpoint_tensors(run_dir / CHECKPOINTS)
    try:
        model.load_state_dict(tensors)
    except (AttributeError, RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"the checkpoint in {run_dir} does not hold the whole model ({reason}); under ZeRO stage 3 it is in pieces"
        ) from None
    return config, model, tokenizer


def model_identity(model: LanguageModel) -> str:
    """SHA-256 of a model's parameters and tables, in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\0".encode())
        digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
