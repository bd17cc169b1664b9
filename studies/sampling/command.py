"""Text drawn from a finished run: its entropy decoder, fed with random bits."""

import math
import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor
from tqdm import tqdm

from archive.coder import LOW, PRECISION_BITS, Decoder, cumulative
from data.errors import RunFailed, UsageError
from data.file_encoder import open_encoder
from data.lanes import longest_segment
from data.streams import publish
from model.lm import LanguageModel
from studies.sampling.options import Sample
from studies.scoring import connect_alone
from train.frozen import FrozenLearner, load_frozen


def execute(options: Sample) -> None:
    """Raises UsageError for what is wrong with the arguments."""
    count, most = options.count, options.bytes if options.tokens is None else options.tokens
    if not 0 < options.temperature < math.inf:
        raise UsageError(
            f"--temperature {options.temperature}: give a number above 0. 1 is the model's own, 0.01 almost always "
            "takes the most probable token"
        )
    if options.seed < 0 or count < 1 or most < 1:
        raise UsageError(
            f"--seed {options.seed}, --count {count}, and {most:,} bytes or tokens: take 0, 1 and 1 or more"
        )
    if options.prompt_file and not options.prompt_file.exists():
        raise UsageError(f"--prompt_file {options.prompt_file} does not exist")
    prompt = (
        options.prompt_file.read_bytes() if options.prompt_file else options.prompt.encode("utf-8", "surrogateescape")
    )
    config, model, tokenizer = load_frozen(options.run)
    with connect_alone(config.engine.threads) as place:
        learner = FrozenLearner(config, model, tokenizer.end_of_document, count, place)
        piece_bytes = np.array([len(piece) for piece in tokenizer.pieces])
        costs = piece_bytes if options.tokens is None else np.ones_like(piece_bytes)
        symbols = most * len(model.radices)
        decoders = [Decoder(random_payload(options.seed, number, symbols)) for number in range(count)]
        samples = draw(
            learner,
            open_encoder(tokenizer, config.data.tokenizer).encode(prompt),
            decoders,
            options.temperature,
            costs,
            most,
        )
    for number, drawn in enumerate(samples, 1):
        text = tokenizer.decode(drawn.tokens)
        ended = ", the document's end among them" if drawn.tokens[-1] == tokenizer.end_of_document else ""
        print(
            f"sample {number} of {count}: {len(text):,} bytes in {len(drawn.tokens):,} tokens{ended}, by "
            f"{drawn.bits:,.1f} random bits, {drawn.bits / max(1, len(text)):.3f} bits/byte",
            file=sys.stderr,
        )
        publish(text + b"\n" * (count > 1))


@dataclass
class Drawn:
    """The tokens of a sample, and how many random bits of its decoder they took: -log2 of their probability."""

    decoder: Decoder
    tokens: list[int] = field(default_factory=list)
    bits: float = 0.0


def random_payload(seed: int, number: int, symbols: int) -> bytes:
    """Random bytes that last for so many symbols, of the `number`-th sample of a seed.

    The decoder keeps 128 bits or fewer in hand, and no symbol takes more than PRECISION_BITS from it.
    """
    return np.random.default_rng([seed, number]).bytes(16 + 4 + PRECISION_BITS // 8 * symbols)


def draw(
    learner: FrozenLearner, prompt: np.ndarray, decoders: list[Decoder], temperature: float, costs: np.ndarray,
    most: int,
) -> list[Drawn]:  # fmt: skip
    """A sample from each decoder, for each row of the learner: until what its tokens cost, by `costs` [V], comes to
    `most`, or the document ends.

    `prompt` is run through first, one token at a time like what is drawn, so that the probabilities are those by which
    a decoder that had the prompt would go on.
    """
    samples, spent, end = [Drawn(decoder) for decoder in decoders], np.zeros(len(decoders), np.int64), len(costs) - 1
    seen, learner.states = learner.see(learner.recent, learner.states)
    for token in tqdm(prompt, desc="prompt", unit=" tokens", disable=None, leave=False):
        seen = see_next(learner, np.full(len(decoders), token, np.int64))
    with tqdm(total=most, desc="sampling", disable=None, leave=False) as bar:
        while rows := [row for row, drawn in enumerate(samples) if spent[row] < most and drawn.tokens[-1:] != [end]]:
            tokens = np.full(len(decoders), end, np.int64)
            tokens[rows] = draw_tokens(learner, seen, samples, rows, temperature)
            for row in rows:
                samples[row].tokens.append(int(tokens[row]))
            spent += costs[tokens]
            bar.update(min(most, int(spent.max())) - bar.n)
            seen = see_next(learner, tokens)
    return samples


def draw_tokens(
    learner: FrozenLearner, seen: list[Any], samples: list[Drawn], rows: list[int], temperature: float
) -> np.ndarray:
    """The next token of each of `rows`, [rows], the bits that it takes added to its sample's: digit by digit like an
    encoder's, or at once where a temperature needs the whole distribution."""
    radices = learner.model.radices if temperature == 1 else [learner.model.vocabulary]
    node = torch.ones_like(learner.recent[:, :1])
    for digit, radix in enumerate(radices):
        if temperature == 1:
            bounds = cumulative(learner.following(seen, node, digit)[:, 0].numpy(force=True))
        else:
            whole = distribution(learner.model, seen[0], len(node))
            bounds = cumulative(apply_temperature(whole.numpy(force=True), temperature))
        if (bounds < 0).any():  # what is not a number has become the least of integers
            raise RunFailed("the model's probabilities are not numbers: its training diverged")
        node *= radix
        for row in rows:
            symbol = int(samples[row].decoder.decode(bounds[row : row + 1])[0])
            assert samples[row].decoder.state >= LOW, "the random bits have run dry"
            samples[row].bits += PRECISION_BITS - math.log2(bounds[row, symbol + 1] - bounds[row, symbol])
            node[row] += symbol
    # As in decoding: a digit's least share, 2^-48, may be beside the tree's leaves.
    return (node[rows, 0] - math.prod(radices)).clamp(max=learner.model.vocabulary - 1).numpy(force=True)


def see_next(learner: FrozenLearner, tokens: np.ndarray) -> list[Any]:
    """What `following` needs once each row has had its one of `tokens` [R]. The learner moves on."""
    following = torch.from_numpy(tokens).to(learner.recent.device)[:, None]
    learner.recent = torch.cat([learner.recent[:, 1:], following], 1)
    longest = longest_segment(learner.config.segment_tokens)
    if hasattr(learner.model, "network") and learner.states[0][0].shape[1] >= longest:
        # A network reads its segment so far again, which has to end where those of its training did.
        learner.begin_state()
    seen, learner.states = learner.see(learner.recent, learner.states)
    return seen


def apply_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """p^(1 / temperature), renormalised, of probabilities [R, V]."""
    with np.errstate(divide="ignore"):
        return softmax(np.log(probabilities.astype(np.float64)) / temperature, axis=1)


def distribution(model: LanguageModel, seen: Any, rows: int) -> Tensor:
    """Probabilities [B, V] of the next token, of what `model` saw of B histories of C tokens, without targets. Coding
    never needs them, since it goes digit by digit: [B, P] are the prefixes that digits so far make."""
    node = torch.ones(rows, 1, dtype=torch.int64, device=next(model.parameters()).device)
    reached = node
    for digit, radix in enumerate(model.radices):
        ways = model.following(seen, node, digit)  # [B, P, radix]
        reached = (reached.unsqueeze(-1) * ways).flatten(1)
        node = (node.unsqueeze(-1) * radix + torch.arange(radix, device=node.device)).flatten(1)
    return reached[:, : model.vocabulary]
