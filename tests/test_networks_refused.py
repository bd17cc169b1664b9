"""What is refused before a network of the transformers library is trained."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from dist import ROOT
from plain_engine import PlainEngine
from test_archive_coding import Case, new_learner
from test_networks import resolved

from data.errors import UsageError
from train.command_line import parse_config
from train.config import Config, EngineConfig
from train.cuda import choose_compile
from train.engine import Place
from train.graphs import choose_graphs
from train.networks import check_behaviour


def refusal(*arguments: str) -> str:
    with pytest.raises(UsageError) as caught:
        parse_config("", ["--model.width=16", "--model.head_width=8", "--model.window=16", *arguments])
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("llama", "is of no library: give transformers:TYPE or transformers:FILE.json"),
        (
            "transformers:lama",
            "'lama' is no model_type of transformers that predicts the next token. Did you mean llama?",
        ),
        ("transformers:vit", "'vit' is no model_type of transformers that predicts the next token: take one"),
        ("transformers:meta-llama/Llama-3.2-1B", "nothing is downloaded, and no parameters are taken over"),
        ("transformers:gone.json", "gone.json cannot be read (No such file or directory): name a config.json"),
        ("transformers:llama,hidden_sise=3", "llama has no field hidden_sise. Did you mean hidden_size?"),
        ("transformers:llama,_attn_implementation=kernels/x", "llama has no field _attn_implementation"),
        ("transformers:llama,vocab_size=3", "vocab_size is not yours to set: leave it out"),
        ("transformers:llama,16", "'16' is no field: write NAME=VALUE, by commas"),
        ("transformers:llama,num_key_value_heads=two", "transformers refuses it"),
        ("transformers:llama,hidden_act=none", "llama cannot be built (KeyError"),
        ("transformers:llama,max_position_embeddings=47", "needs 48: shorten them, or add max_position_embeddings=48"),
        ("transformers:gemma3", "take the type of its text model"),
        ("transformers:{", "model.network is no JSON"),
        ("transformers:{}", "model.network names no model_type"),
    ],
)
def test_what_is_no_network_is_refused_before_any_work(network: str, message: str) -> None:
    assert message in refusal(f"--model.network={network}")


def test_files_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    for text, message in {
        '{"model_type": "llama"': "is no JSON",
        "[1]": "is no JSON object: give a config.json",
        "{}": "names no model_type: add one, such as llama",
        '{"model_type": "llama", "auto_map": {"AutoModelForCausalLM": "a.B"}}': "names code of its own (auto_map)",
        '{"model_type": "mine", "auto_map": {}}': "names code of its own (auto_map)",
    }.items():
        path.write_text(text)
        assert message in refusal(f"--model.network=transformers:{path}")


def test_options_without_an_effect_are_refused(tmp_path: Path) -> None:
    llama = "--model.network=transformers:llama"
    for option, name in {
        "--model.state=16": "model.state", "--model.conv=2": "model.conv", "--model.expand=2": "model.expand",
        "--model.logit_cap=0": "model.logit_cap", "--model.ngram_embeddings=[2]": "model.ngram_embeddings",
        "--model.block=gru": "model.block 'gru'",
    }.items():  # fmt: skip
        assert f"{name} has no effect" in refusal(llama, option)
    path = tmp_path / "config.json"
    path.write_text('{"model_type": "llama", "hidden_size": 32}')
    assert "model.width 16 has no effect on model.network" in refusal(f"--model.network=transformers:{path}")
    assert "does not divide model.width 16" in refusal(llama, "--model.head_width=7")
    assert "a network of transformers is --model.network transformers:llama" in refusal(
        "--model.block=transformers:llama"
    )


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'onepass[transformers]'" in refusal("--model.network=transformers:llama")


def test_the_library_is_imported_only_when_asked() -> None:
    words = (
        "import sys, eval.books, train.command_line as c; c.parse_config('', []); print('transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", words], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"
    # And never with kernels from the internet.
    assert os.environ["USE_HUB_KERNELS"] == "NO"


def test_a_network_that_sees_later_tokens_or_is_random_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.loop.build_engine", PlainEngine)
    for text, message in {"transformers:bert": "BertLMHeadModel sees later tokens", "transformers:llama": ""}.items():
        learner = new_learner(Case(9, resolved(text)))
        if message:
            with pytest.raises(UsageError, match=message):
                check_behaviour(learner)
        else:
            check_behaviour(learner)
    check_behaviour(new_learner(Case(9, resolved("transformers:bert,is_decoder=true"))))
    head: Any = learner.model.network.get_output_embeddings()  # type: ignore[union-attr]
    head.register_forward_hook(lambda module, inputs, output: torch.nn.functional.dropout(output, 0.5))
    with pytest.raises(UsageError, match="gives equal rows different outputs"):
        check_behaviour(learner)
    head.register_forward_hook(lambda module, inputs, output: output.reshape(-1, 3, 7))
    with pytest.raises(UsageError, match="a forward pass of LlamaForCausalLM fails"):
        check_behaviour(learner)


def test_neither_compiler_nor_graphs_are_for_networks() -> None:
    place = Place(0, 1, torch.device("cuda"))
    config = Config(model=resolved("transformers:llama"))
    assert (choose_compile(config, place), choose_graphs(config, place)) == ("off", "off")
    for name, choose in (("compile", choose_compile), ("graphs", choose_graphs)):
        with pytest.raises(UsageError, match=rf"engine.{name} is on, .*model.network"):
            asked: Any = {name: "on"}
            choose(replace(config, engine=EngineConfig(**asked)), place)
