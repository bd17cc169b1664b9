"""Learners under each ZeRO stage, with muon, one after the other in one process a rank: a launcher starts the ranks.

`zero_stages.py FOLDER` prints, from rank 0, the nats of each step by the name of the learner, and puts checkpoints into
FOLDER.
"""

import json
import sys
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).parents[1])

import torch

from data.lanes import Lanes
from train.config import Config, EngineConfig, ModelConfig, TrainConfig
from train.engine import connect, disconnect
from train.loop import Learner
from train.saved_engine import load_engine

STEPS, LANES, TOKENS = 6, 8, 8


def main(folder: str) -> None:
    place = connect(1, 600)
    rows, found = LANES // place.world_size, {}
    targets = torch.randint(40, (STEPS, LANES, TOKENS), generator=torch.Generator().manual_seed(0))
    mine = targets[:, place.rank * rows : (place.rank + 1) * rows].to(place.device)

    def learner(stage: Any, **zero: Any) -> Learner:
        # Three matrices of a shape: two ranks share the second.
        model = ModelConfig(width=48, head_width=16, depth=3, window=16, ngram_orders=[])
        train = TrainConfig(lanes=LANES, segment_tokens=TOKENS, accumulation=2, weight_decay=0.1)
        config = Config(model=model, train=train, engine=EngineConfig(zero_stage=stage))
        return Learner(config, 257, 256, place, {"zero_optimization": zero})

    def nats(of: Learner, steps: range) -> list[float]:
        lanes = Lanes(STEPS * LANES * TOKENS, LANES, TOKENS)
        learned = [of.learn(mine[step], lanes, step) for step in steps]
        return place.sum([one.double().sum().item() for one in learned])

    for stage in range(4):
        before = learner(stage)
        found[f"stage {stage}"] = first = nats(before, range(3))
        if stage:
            before.engine.save_checkpoint(folder, tag=f"stage-{stage}", save_latest=False)
            after = learner(stage)
            load_engine(after.engine, folder, f"stage-{stage}")
            after.states, after.recent = before.states.copy(), before.recent
            found[f"stage {stage}, resumed"] = first + nats(after, range(3, STEPS))
        found[f"stage {stage}"] = first + nats(before, range(3, STEPS))
    # Buckets of fewer entries than a step reduces.
    found["stage 2, overlapped"] = nats(learner(2, overlap_comm=True, reduce_bucket_size=20_000), range(STEPS))
    if place.rank == 0:
        print("NATS", json.dumps(found))
    disconnect()


if __name__ == "__main__":
    # A launcher puts --local_rank before it.
    main(sys.argv[-1])
