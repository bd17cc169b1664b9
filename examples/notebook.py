# %% [markdown]
"""From configurations to a table and back to a model, as the cells of a notebook. Each `# %%` begins a cell.

python examples/notebook.py FILE [RUNS_DIR]      or open it in an editor that runs cells, or with jupytext
"""

# %% What to train over, and where the runs go.
import math
import sys
from pathlib import Path

import torch

from data.errors import UsageError
from data.file_encoder import open_encoder
from eval.report import read_runs
from launch.train import train
from train.config import Config, DataConfig, ModelConfig, RunConfig, TrainConfig
from train.frozen import load_frozen

source = sys.argv[1]
runs = Path(sys.argv[2] if len(sys.argv) > 2 else "runs/notebook")

# %% A run for each block. A run that is finished is not repeated.
for block in ("gru", "attention"):
    config = Config(
        data=DataConfig(source=source, tokenizer="bytes"),
        model=ModelConfig(block=block, width=32, head_width=16, ngram_orders=[]),
        train=TrainConfig(lanes=8, seed=0),
        run=RunConfig(dir=str(runs / block), baselines=False),
    )
    if not (runs / block / "report.json").exists():
        report = train(config)
        print(f"{block}: {report.description_length.total_bits / 8:,.0f} bytes")

# %% What is wrong is an exception of one line.
try:
    train(Config(model=ModelConfig(block="grru")))
except UsageError as error:
    print(error)

# %% All runs as one table, with a column for each field of the configuration.
table = read_runs(runs)
columns = ["model.block", "model.parameters", "description_length.data_bits", "description_length.total_bits"]
print(table[columns].to_string())

# %% The best model, as its checkpoint has it, and what a text costs with it. Nothing is learned here.
config, model, tokenizer = load_frozen(runs / table.index[0])
text = b"The quick brown fox"
tokens = open_encoder(tokenizer, config.data.tokenizer).encode(text)
targets = torch.tensor([tokens.tolist()])  # [1, T]
# Before the first token stands an end of a document, as often as the model looks back.
start = torch.full((1, model.context), tokenizer.end_of_document)
with torch.no_grad():
    nats, state = model(torch.cat([start, targets[:, :-1]], 1), model.init_state(1), targets)
bits = nats.sum().item() / math.log(2)
print(f"{bits:.1f} bits for {len(text)} bytes")
