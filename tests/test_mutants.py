"""A test of the tests: a fault in a line that the number depends on is caught by the default set.

Each mutant changes one line of a copy of the project, and the tests that guard it must then fail.
"""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from dist import ROOT, start_python

PARTS = [
    "archive", "benchmarks", "configs", "data", "eval", "launch", "model", "studies", "tests", "train", "LICENSE",
    "README.md", "pyproject.toml",
]  # fmt: skip
DEFAULT_SET = "not slow and not gpu and not hosts"


@dataclass(frozen=True)
class Mutant:
    """A fault: `new` in place of `old`, which stands once in `file`. `guards` are the tests that catch it."""

    fault: str
    file: str
    old: str
    new: str
    guards: str


CODING = "tests/test_archive_coding.py"
DRIFT = f"{CODING}::test_a_model_that_drifts_is_found_at_the_end_of_the_block"
AVERAGE = f"{CODING}::test_the_average_of_the_ranks_gradients_is_the_gradient_of_nats_a_token_over_the_global_batch"
SUMS = "tests/test_train_parts.py::test_ledger_sums_nats_tokens_and_bytes"
EQUATIONS = "tests/test_model_blocks.py::test_attention_agrees_with_its_equations"
CHARGED = "tests/test_eval_code_size.py::test_the_term_is_the_length_of_a_stream_that_holds_code_and_configuration"
TERMS = "tests/test_launch_train.py::test_each_term_is_the_length_of_what_stands_for_it"
MUTANTS = [
    Mutant(
        "the ragged tail of all lanes is dropped", "data/lanes.py",
        "-((start - fraction * self.lane_tokens) // before)", "(fraction * self.lane_tokens - start) // before",
        "tests/test_data_lanes.py",
    ),
    Mutant(
        "the last lanes' tokens have no weight", "data/lanes.py",
        "full * (stop - start) + max(0, min(stop, rest) - start)", "full * (stop - start)", "tests/test_data_lanes.py",
    ),
    Mutant(
        "lanes overlap by a token", "data/lanes.py",
        "(min(lane * self.lane_tokens + offset", "(min(lane * (self.lane_tokens - 1) + offset",
        "tests/test_data_lanes.py",
    ),
    Mutant(
        "the first token of every lane is given away", "train/loop.py",
        "- targets.shape[1] : -1].clamp(min=0)", "- targets.shape[1] :][:, 1:].clamp(min=0)", CODING,
    ),
    Mutant(
        "a micro-batch is coded by the counts of another's lanes", "train/loop.py",
        "init_state(micro_rows, first)", "init_state(micro_rows, 0)", CODING,
    ),
    Mutant(
        "tokens are priced after the update that has seen them", "train/loop.py",
        "            nats.append(cost.detach())",
        "            nats.append(self.engine(inputs, self.states[index], wanted)[0].detach())", CODING,
    ),
    Mutant(
        "context mixing counts a token before it is priced", "model/mixing.py",
        "            found.append([", "            self.learn(part, wanted)\n            found.append([",
        CODING,
    ),
    Mutant(
        "nats are averaged over time", "train/ledger.py", "nats.double().sum(1)", "nats.double().mean(1)",
        SUMS,
    ),
    Mutant(
        "the last token of each segment is free", "train/ledger.py",
        "nats.double().sum(1)", "nats.double()[:, :-1].sum(1)", SUMS,
    ),
    Mutant(
        "the ledger sums this rank's lanes alone", "train/engine.py",
        "        if self.world_size > 1:\n            dist.all_reduce(total)", "        if False:\n            pass",
        "tests/test_launch_ranks.py::test_two_ranks_give_the_bits_of_one_with_twice_the_accumulation",
    ),
    Mutant(
        "the gradient lacks the number of ranks", "train/loop.py",
        "scale = self.place.world_size * len(self.states)", "scale = len(self.states)", AVERAGE,
    ),
    Mutant(
        "the gradient lacks the number of micro-batches", "train/loop.py",
        "scale = self.place.world_size * len(self.states)", "scale = self.place.world_size", AVERAGE,
    ),
    Mutant(
        "attention sees the token to be coded", "model/blocks/attention.py",
        "(distance >= 0)", "(distance >= -1)", EQUATIONS,
    ),
    Mutant(
        "the window of attention is a token too long", "model/blocks/attention.py",
        "(distance < window)", "(distance <= window)", EQUATIONS,
    ),
    Mutant(
        "a decoder that drifts is not found", "archive/decoding.py",
        "[self.decoder.state != self.check]", "[False]", DRIFT,
    ),
    Mutant(
        "the configuration is not charged", "eval/code_size.py",
        'parts = [json.dumps(charged, sort_keys=True, separators=(",", ":"), ensure_ascii=False)]', 'parts = ["{}"]',
        CHARGED,
    ),
    Mutant(
        "the tokenizer is not charged", "eval/books.py",
        'charged_bytes = len(tokenizer.encoding)', 'charged_bytes = 0', TERMS,
    ),
    Mutant(
        "a warm start is not charged", "eval/books.py",
        "1, len(warm_start), names_bytes", "1, 0, names_bytes", "tests/test_archive_warm_start.py",
    ),
    Mutant(
        "names of documents are not charged", "eval/books.py",
        "names_bytes = len(pack_names(self.corpus.source.names))", "names_bytes = 0",
        "tests/test_archive.py::test_each_term_of_the_report_is_in_the_archive",
    ),
]  # fmt: skip


def mutated(mutant: Mutant, source: str) -> str:
    assert source.count(mutant.old) == 1, f"{mutant.file} has changed: write anew how {mutant.fault}"
    return source.replace(mutant.old, mutant.new)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.fault)
def test_the_lines_to_change_are_there(mutant: Mutant) -> None:
    compile(mutated(mutant, (ROOT / mutant.file).read_text()), mutant.file, "exec")


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.fault)
def test_the_default_set_catches_it(mutant: Mutant, tmp_path: Path) -> None:
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, tmp_path / part)
    path = tmp_path / mutant.file
    path.write_text(mutated(mutant, path.read_text()))
    guard = ["-m", "pytest", "-x", "-p", "no:cacheprovider", "-m", DEFAULT_SET, mutant.guards]
    process = start_python(guard, tmp_path, PYTHONPATH="", PYTEST_ADDOPTS="")
    out, err = process.communicate(timeout=600)
    # A run that a module's tests share may fail already.
    caught = re.search(r"\d (failed|error)", out)
    assert process.returncode == 1 and caught, out[-3000:] + err[-2000:]
