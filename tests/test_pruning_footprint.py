"""What a model takes to run is counted: bytes alive at once, the state of a lane; and single weights set to zero."""

import torch

from model.lm import LanguageModel
from studies.pruning.command import measure_bytes
from studies.pruning.surgery import zero_smallest
from train.config import ModelConfig


class Copies(torch.nn.Module):
    """A model of 100 numbers, which makes copies of them on the way, and views, which take no bytes of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Parameter(torch.zeros(100))  # 400 bytes

    def init_state(self, batch: int) -> list[torch.Tensor]:
        return [torch.zeros(batch, 25)]

    def forward(
        self, history: torch.Tensor, state: list[torch.Tensor], targets: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        first = self.embedding.view(10, 10) + 1  # 400 more
        second = first.view(4, 25).t()
        del first
        third = torch.cat([second, second])  # 800 more
        del second, third
        return self.embedding * 2, [state[0] + 1]


def test_tensors_count_while_they_live() -> None:
    # 400 + 400 + 800, and 200 of the state of two lanes.
    assert measure_bytes(Copies(), torch.zeros(2, 3, dtype=torch.long)) == (1800, 100)  # type: ignore[arg-type]


def test_a_wider_model_and_more_lanes_take_more() -> None:
    def of(width: int, lanes: int) -> tuple[int, int]:
        torch.manual_seed(0)
        model = LanguageModel(ModelConfig(width=width, head_width=8, window=6, block="lstm", ngram_orders=[]), 11)
        return measure_bytes(model, torch.zeros(lanes, 5, dtype=torch.long))

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
