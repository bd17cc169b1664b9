"""Draw text from a finished run: sampling is decoding random bits.

    python launch/evaluate.py sample runs/mine --prompt "In the beginning" --bytes 300
    python launch/evaluate.py sample runs/mine --prompt_file FILE --temperature 0.8 --seed 7 --count 4

An entropy decoder turns bits into text by a model's probabilities. Fed with an archive it gives the corpus back; fed
with random bits it gives a sample, for a symbol of probability p has a share p of all bit strings, and takes -log2 p
bits. So nothing is needed except the decoder (archive/coder.py) and the frozen model in its stepwise form, and encoding
the sample with the model gives the random bits back.

The drawn text goes to stdout as it is, bytes that are no UTF-8 included and without the prompt; with --count above 1,
a line feed ends each sample. All else goes to stderr. A sample ends with the document. Exit status 2: bad arguments.
"""

import argparse
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from archive.coder import LOW, PRECISION_BITS, Decoder, cumulative
from data.bpe import Encoder
from data.errors import RunFailed, UsageError
from data.streams import publish
from studies.sampling.distribution import distribution
from studies.scoring import connect_alone
from train.engine import disconnect
from train.frozen import FrozenLearner, load_frozen


@dataclass
class Sample:
    """What was drawn, and the random bits that it took: -log2 of its probability."""

    tokens: list[int] = field(default_factory=list)
    bits: float = 0.0


def sample_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="run.dir of a finished run")
    prompts = parser.add_mutually_exclusive_group()
    prompts.add_argument(
        "--prompt", default="", metavar="TEXT", help="what stands before the sample (default: nothing)"
    )
    prompts.add_argument("--prompt_file", type=Path, metavar="FILE", help="the same, from a file of any bytes")
    parser.add_argument(
        "--temperature", type=float, default=1.0, metavar="T",
        help="p^(1/T) in place of p: below 1 more likely text, above 1 more surprising; 1 is the model's own (default)",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=int, default=0, help="0 or more, of the random bits; same seed, same sample (default: 0)"
    )
    limits = parser.add_mutually_exclusive_group()
    limits.add_argument(
        "--bytes", type=int, default=500, metavar="N", help="end with the token that makes N bytes full (default: 500)"
    )
    limits.add_argument("--tokens", type=int, metavar="N", help="end after N tokens instead")
    parser.add_argument("--count", type=int, default=1, metavar="K", help="samples, drawn side by side (default: 1)")


def sample(
    run: Path, prompt: str, prompt_file: Path | None, temperature: float, seed: int, bytes: int, tokens: int | None,
    count: int,
) -> None:  # fmt: skip
    """Raises UsageError for what is wrong with the arguments."""
    if not 0 < temperature < math.inf:
        raise UsageError(
            f"--temperature {temperature} is none: take 1, or 0.01 for all but the likeliest token each time"
        )
    most = bytes if tokens is None else tokens
    if seed < 0 or count < 1 or most < 1:
        raise UsageError(f"--seed {seed}, --count {count}, and {most:,} bytes or tokens: take 0, 1 and 1 or more")
    if prompt_file and not prompt_file.exists():
        raise UsageError(f"--prompt_file {prompt_file} does not exist")
    before = prompt_file.read_bytes() if prompt_file else prompt.encode("utf-8", "surrogateescape")
    config, model, tokenizer = load_frozen(run)
    place = connect_alone(config.engine.threads)
    learner = FrozenLearner(config, model, tokenizer.end_of_document, count, place)
    piece_bytes = np.array([len(piece) for piece in tokenizer.pieces])
    costs = piece_bytes if tokens is None else np.ones_like(piece_bytes)
    decoders = [Decoder(random_payload(seed, number, most * len(model.radices))) for number in range(count)]
    samples = draw(learner, Encoder(tokenizer).encode(before), decoders, temperature, costs, most)
    for number, drawn in enumerate(samples, 1):
        text = tokenizer.decode(drawn.tokens)
        ended = ", the document's end among them" if drawn.tokens[-1] == tokenizer.end_of_document else ""
        print(
            f"sample {number} of {count}: {len(text):,} bytes in {len(drawn.tokens):,} tokens{ended}, by "
            f"{drawn.bits:,.1f} random bits, {drawn.bits / max(1, len(text)):.3f} bits/byte",
            file=sys.stderr,
        )
        publish(text + b"\n" * (count > 1))
    disconnect()


def random_payload(seed: int, number: int, symbols: int) -> bytes:
    """Random bytes that last for so many symbols, of the `number`-th sample of a seed.

    The decoder keeps 128 bits or fewer in hand, and no symbol takes more than PRECISION_BITS from it.
    """
    return np.random.default_rng([seed, number]).bytes(16 + 4 + PRECISION_BITS // 8 * symbols)


def draw(
    learner: FrozenLearner,
    prompt: np.ndarray,
    decoders: list[Decoder],
    temperature: float,
    costs: np.ndarray,
    most: int,
) -> list[Sample]:
    """A sample from each decoder, for each row of the learner: until what its tokens cost, by `costs` [V], comes to
    `most`, or the document ends.

    `prompt` is run through first, one token at a time like what is drawn, so that the probabilities are those by which
    a decoder that had the prompt would go on.
    """
    samples, spent, end = [Sample() for _ in decoders], np.zeros(len(decoders), np.int64), len(costs) - 1
    seen, learner.states = learner.see(learner.recent, learner.states)
    for token in tqdm(prompt, desc="prompt", unit=" tokens", disable=None, leave=False):
        seen = seen_after(learner, np.full(len(decoders), token, np.int64))
    with tqdm(total=most, desc="sampling", disable=None, leave=False) as bar:
        while rows := [row for row, drawn in enumerate(samples) if spent[row] < most and drawn.tokens[-1:] != [end]]:
            tokens = np.full(len(decoders), end, np.int64)
            tokens[rows] = draw_tokens(learner, seen, rows, decoders, samples, temperature)
            for row in rows:
                samples[row].tokens.append(int(tokens[row]))
            spent += costs[tokens]
            bar.update(min(most, int(spent.max())) - bar.n)
            seen = seen_after(learner, tokens)
    return samples


def draw_tokens(
    learner: FrozenLearner,
    seen: list[Any],
    rows: list[int],
    decoders: list[Decoder],
    samples: list[Sample],
    temperature: float,
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
            bounds = cumulative(tempered(whole.numpy(force=True), temperature))
        if (bounds < 0).any():  # what is not a number has become the least of integers
            raise RunFailed("the model's probabilities are no numbers: its training went astray")
        node *= radix
        for row in rows:
            symbol = int(decoders[row].decode(bounds[row : row + 1])[0])
            assert decoders[row].state >= LOW, "the random bits have run dry"
            samples[row].bits += PRECISION_BITS - math.log2(bounds[row, symbol + 1] - bounds[row, symbol])
            node[row] += symbol
    # As in decoding: a digit's least share, 2^-48, may be beside the tree's leaves.
    return (node[rows, 0] - math.prod(radices)).clamp(max=learner.model.vocabulary - 1).numpy(force=True)


def seen_after(learner: FrozenLearner, tokens: np.ndarray) -> list[Any]:
    """What `following` needs once each row has had its one of `tokens` [R]. The learner moves on."""
    following = torch.from_numpy(tokens).to(learner.recent.device)[:, None]
    learner.recent = torch.cat([learner.recent[:, 1:], following], 1)
    seen, learner.states = learner.see(learner.recent, learner.states)
    return seen


def tempered(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """p^(1 / temperature), renormalised, of probabilities [R, V]."""
    with np.errstate(divide="ignore"):
        logs = np.log(probabilities.astype(np.float64)) / temperature
    powers = np.exp(logs - logs.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
