"""Sampling is decoding random bits: encoding the sample gives them back, and its frequencies are the model's."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dist import ROOT, run
from scipy.stats import binomtest, chisquare
from small_run import SMALL
from trained_run import trained_run

from archive.coder import LOW, Decoder, cumulative, encode
from archive.decoding import code_segment
from data.errors import UsageError
from data.lanes import Lanes
from data.token_pieces import MAX_IDS
from data.tokenizer import load_tokenizer
from model.lm import LanguageModel
from model.registry import BLOCKS
from studies.sampling.command import apply_temperature, distribution, draw, execute, random_payload
from studies.sampling.options import Sample
from train.command_line import save_config
from train.config import Config, ModelConfig
from train.engine import Place
from train.frozen import FrozenLearner, load_frozen

PLACE = Place(0, 1, torch.device("cpu"))
VOCABULARY, END = 41, 40
MODEL = ModelConfig(width=16, head_width=8, depth=2, window=7, ngram_orders=[], ngram_rows_log2=8)
MODELS = {
    **{block: replace(MODEL, block=block) for block in sorted(BLOCKS)},
    "context mixing": replace(MODEL, block="gru attention", ngram_orders=[1, 2, 3], ngram_local=[1]),
}


def learner(model: ModelConfig, rows: int, vocabulary: int = VOCABULARY) -> FrozenLearner:
    """Of a model with random parameters, whose tables have counted a little: not uniform, and the same each time."""
    torch.manual_seed(5)
    made = LanguageModel(model, vocabulary)
    with torch.no_grad():
        for name, values in made.named_parameters():
            # Weights of the mixing multiply log-odds: more of it, and one token would be drawn time and again.
            values.add_((0.1 if name.startswith("mixing") else 0.3) * torch.randn_like(values))
    if made.mixing is not None:
        made.mixing.take_in(torch.randint(vocabulary, (4, made.context + 20)), [])
    return FrozenLearner(Config(model=model), made, vocabulary - 1, rows, PLACE)


def drawn(
    model: ModelConfig, rows: int, tokens: int, prompt: list[int], seed: int = 0, temperature: float = 1.0,
    vocabulary: int = VOCABULARY,
):  # fmt: skip
    made = learner(model, rows, vocabulary)
    decoders = [Decoder(random_payload(seed, number, tokens * len(made.model.radices))) for number in range(rows)]
    samples = draw(made, np.array(prompt), decoders, temperature, np.ones(vocabulary, int), tokens)
    return samples, decoders


@pytest.mark.parametrize(
    ("name", "vocabulary", "rows", "tokens"),
    [*((name, VOCABULARY, 24, 40) for name in MODELS), ("gru", MAX_IDS, 6, 12), ("context mixing", MAX_IDS, 6, 12)],
)
def test_encoding_a_sample_gives_the_random_bits_back(name: str, vocabulary: int, rows: int, tokens: int) -> None:
    # Which tokens are drawn depends on the processor's rounding; among 24 rows, some are long on any.
    prompt = [3, 1, vocabulary - 2]
    samples, decoders = drawn(MODELS[name], rows, tokens, prompt, vocabulary=vocabulary)
    whole = np.full((rows, len(prompt) + tokens), vocabulary - 1)
    for row, part in zip(whole, samples, strict=True):
        row[: len(prompt) + len(part.tokens)] = prompt + part.tokens
    shares: list[list[tuple[int, int]]] = [[] for _ in range(rows)]

    # The archives' own way to probabilities, which is not told how the sample came about.
    def collect(bounds: np.ndarray, time: int, below: int) -> np.ndarray:
        digits = whole[:, time] // below % (bounds.shape[1] - 1)
        for row, symbol in enumerate(digits):
            if 0 <= time - len(prompt) < len(samples[row].tokens):
                start, stop = bounds[row, symbol : symbol + 2].tolist()
                shares[row].append((start, stop - start))
        return digits

    lanes = Lanes(whole.size, rows, whole.shape[1])
    again: Any = learner(MODELS[name], rows, vocabulary)
    assert np.array_equal(code_segment(0, again, lanes, lanes.share(0, 1), collect), whole)
    assert any(len(part.tokens) > 10 for part in samples)
    for number, (part, decoder) in enumerate(zip(samples, decoders, strict=True)):
        taken = decoder.payload[: decoder.position]
        assert encode(shares[number][::-1], decoder.state) == taken.lstrip(b"\0")
        # What the decoder took in, less what it has left in hand.
        taken_bits = math.log2(int.from_bytes(taken, "big")) - math.log2(decoder.state)
        assert part.bits == pytest.approx(taken_bits, abs=1e-6)
        assert random_payload(0, number, tokens * len(again.model.radices)).startswith(taken)


class Dice(torch.nn.Module):
    """A model with one distribution for every token, of which the test knows."""

    context = 1

    def __init__(self, probabilities: list[float]):
        super().__init__()
        self.probabilities = torch.nn.Parameter(torch.tensor(probabilities))
        self.vocabulary = len(probabilities)
        self.radices = [self.vocabulary]

    def init_state(self, batch: int, first: int = 0) -> list:
        return []

    def forward(self, history: torch.Tensor, state: list) -> tuple[int, list]:
        return len(history), state

    def following(self, seen: int, node: torch.Tensor, digit: int) -> torch.Tensor:
        return self.probabilities.expand(seen, 1, -1)


def frequencies(temperature: float) -> np.ndarray:
    """How often each of five symbols is drawn in 200 rows of 200; the sixth, which ends a document, never is."""
    dice = FrozenLearner(Config(), Dice([0.5, 0.25, 0.15, 0.09, 0.01, 0.0]), 5, 200, PLACE)  # type: ignore[arg-type]
    decoders = [Decoder(random_payload(7, number, 200)) for number in range(200)]
    samples = draw(dice, np.array([], int), decoders, temperature, np.ones(6, int), 200)
    return np.bincount(np.concatenate([part.tokens for part in samples]), minlength=6)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_frequencies_are_the_models(temperature: float) -> None:
    counts = frequencies(temperature)
    assert counts.sum() == 40_000
    assert counts[5] == 0
    powers = np.array([0.5, 0.25, 0.15, 0.09, 0.01]) ** (1 / temperature)
    assert chisquare(counts[:5], 40_000 * powers / powers.sum()).pvalue > 0.001
    others = powers ** (1 / 1.1)
    assert chisquare(counts[:5], 40_000 * others / others.sum()).pvalue < 0.001


def test_cold_samples_take_the_likeliest_token_and_no_bits() -> None:
    # Ten such tokens have no room for a random bit: 1 / T = 10^12 leaves nothing to chance.
    (cold,), _ = drawn(MODEL, 1, 10, [], temperature=1e-12)
    assert cold.bits < 1e-9
    model = learner(MODEL, 1)
    for token in cold.tokens:
        seen, model.states = model.see(model.recent, model.states)
        assert token == int(distribution(model.model, seen[0], 1).argmax())
        model.recent = torch.tensor([[token]])


def test_temperature_is_a_power_renormalised() -> None:
    probabilities = np.array([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0]])
    expected = np.array([[0.25, 0.09, 0.04], [1.0, 0.0, 0.0]])
    np.testing.assert_allclose(apply_temperature(probabilities, 0.5), expected / expected.sum(1, keepdims=True))
    np.testing.assert_allclose(apply_temperature(probabilities, 1.0), probabilities)
    assert (cumulative(apply_temperature(probabilities, 1e-300)) >= 0).all()


def test_seeds_and_rows() -> None:
    tokens = lambda samples: [part.tokens for part in samples]  # noqa: E731
    first = tokens(drawn(MODEL, 4, 60, [1], seed=3)[0])
    assert tokens(drawn(MODEL, 4, 60, [1], seed=3)[0]) == first
    assert tokens(drawn(MODEL, 4, 60, [1], seed=4)[0]) != first
    assert tokens(drawn(MODEL, 4, 60, [2], seed=3)[0]) != first
    assert len({tuple(row) for row in first}) == 4
    for row in first:
        assert END not in row[:-1]
        assert (row[-1] == END) == (len(row) < 60)


def test_a_sample_ends_with_its_document() -> None:
    dice = FrozenLearner(Config(), Dice([0.5, 0.48, 0.02]), 2, 50, PLACE)  # type: ignore[arg-type]
    decoders = [Decoder(random_payload(7, number, 60)) for number in range(50)]
    rows = [part.tokens for part in draw(dice, np.array([], int), decoders, 1.0, np.ones(3, int), 60)]
    assert all(2 not in row[:-1] and (row[-1] == 2 or len(row) == 60) for row in rows)
    ended = sum(row[-1] == 2 for row in rows)
    assert binomtest(ended, 50, 1 - 0.98**60).pvalue > 0.001


def test_the_random_bits_last_however_dear_the_tokens() -> None:
    # The first token has the least share there is, 2^-48, and the bits are such that it is drawn.
    bounds = np.array([[0, 1, 1 << 48]])
    decoder = Decoder(bytes(len(random_payload(0, 0, 50))).replace(b"\0", b"\1", 1))
    for _ in range(50):
        assert decoder.decode(bounds)[0] == 0
        assert decoder.state >= LOW


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run over some of this project's prose, in pieces and with context mixing."""
    folder = tmp_path_factory.mktemp("sampling")
    (folder / "seen.txt").write_bytes((ROOT / "README.md").read_bytes()[:8000])
    small = [option for option in SMALL if "tokenizer" not in option]
    return trained_run(folder, folder / "seen.txt", "--data.vocabulary=300", *small)


def test_samples_of_a_finished_run_as_its_users_draw_them(run_dir: Path, tmp_path: Path) -> None:
    def drawn_text(*more: str) -> tuple[bytes, str]:
        done = run("launch/evaluate.py", "sample", str(run_dir), *more)
        assert done.returncode == 0, done.stderr
        return done.stdout.encode(errors="surrogateescape"), done.stderr

    text, told = drawn_text("--prompt", "deepspeed ", "--bytes=90", "--seed=5")
    (line,) = [line for line in told.splitlines() if line.startswith("sample 1 of 1")]
    assert f"{len(text)} bytes" in line
    # The last token may be longer than what is left; an untrained model's would take 8.2 bits.
    longest = max(map(len, load_tokenizer("bpe", (run_dir / "tokenizer.bin").read_bytes()).pieces))
    assert len(text) < 90 + longest
    assert 0.3 < float(line.split(", ")[-1].split()[0]) < 7
    (tmp_path / "prompt").write_bytes(b"deepspeed ")
    assert drawn_text("--prompt_file", str(tmp_path / "prompt"), "--bytes=90", "--seed=5")[0] == text
    several, told = drawn_text("--tokens=5", "--count=3")
    sizes = [int(line.split(": ")[1].split()[0]) for line in told.splitlines() if line.startswith("sample ")]
    assert len(sizes) == 3
    assert len(several) == sum(sizes) + 3


@pytest.mark.parametrize(
    "wrong", [{"temperature": 0.0}, {"temperature": math.nan}, {"count": 0}, {"seed": -1}, {"tokens": 0}, {}], ids=str
)
def test_bad_arguments_are_refused(wrong: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong), "holds no run")):
        execute(Sample(tmp_path, **wrong))


def test_a_damaged_tokenizer_is_named(tmp_path: Path) -> None:
    save_config(Config(), tmp_path / "config.yaml")
    (tmp_path / "tokenizer.bin").write_bytes(b"junk" * 20)
    with pytest.raises(UsageError, match=r"tokenizer.bin is damaged: it is no encoding of a tokenizer"):
        load_frozen(tmp_path)
