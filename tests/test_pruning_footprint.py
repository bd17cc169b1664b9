"""What a model takes to run is counted: bytes alive at once, the state of a lane; and single weights set to zero."""

import torch

from model.lm import LanguageModel
from studies.pruning.bench import AliveTensors, memory
from studies.pruning.command import zero_smallest
from train.config import ModelConfig


def test_tensors_count_while_they_live() -> None:
    held = torch.zeros(100)
    with AliveTensors([held, held.view(10, 10), 3]) as alive:
        assert alive.peak_bytes == 400
        first = held + 1  # 800
        second = first.view(4, 25).t()  # the same bytes
        del first
        third = torch.cat([second, second])  # 1,600
        assert alive.peak_bytes == 1600
        del second, third
        _ = held * 2  # 800 again
    assert alive.peak_bytes == 1600


def test_a_wider_model_and_more_lanes_take_more() -> None:
    def of(width: int, lanes: int) -> tuple[int, int]:
        torch.manual_seed(0)
        model = LanguageModel(ModelConfig(width=width, head_width=8, window=6, block="lstm", ngram_orders=[]), 11)
        return memory(model, torch.zeros(lanes, 5, dtype=torch.long))

    narrow, wide, more = of(16, 2), of(32, 2), of(16, 6)
    assert narrow[0] < wide[0] and narrow[0] < more[0]
    # An LSTM carries two numbers a channel, and there are two layers, as wide as the model by default or wider.
    assert wide[1] == 2 * narrow[1] == 2 * more[1]
    assert narrow[1] % (2 * 2 * 16 * 4) == 0


def test_the_smallest_weights_of_each_matrix_become_zero_and_stay() -> None:
    torch.manual_seed(0)
    model = LanguageModel(ModelConfig(width=16, head_width=8, block="attention", ngram_orders=[]), 11)
    for weights in model.parameters():
        torch.nn.init.normal_(weights)
    before = {name: weights.detach().clone() for name, weights in model.named_parameters()}
    for share in (0.25, 0.5):
        zero_smallest(model, share)
        for name, weights in model.named_parameters():
            gone = weights == 0
            if name.startswith("layers.") and name.endswith("weight"):
                assert gone.double().mean().item() == share, name
                assert before[name][gone].abs().max() < before[name][~gone].abs().min()
            else:
                assert not gone.any(), name
            assert torch.equal(weights[~gone], before[name][~gone])
