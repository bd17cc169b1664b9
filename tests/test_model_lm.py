"""The language model, with and without context mixing."""

import math
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from archive.coder import cumulative
from model.cuda import use_kernels
from model.lm import LanguageModel
from model.mixing import HIDDEN
from studies.sampling.command import distribution
from train.config import ModelConfig

ORDERS = [1, 2, 4]


def config(**values: object) -> ModelConfig:
    return ModelConfig(**{"width": 16, "head_width": 8, "depth": 2, "window": 8, "ngram_orders": ORDERS, **values})  # type: ignore[arg-type]


@pytest.mark.parametrize("orders", [[], ORDERS])
def test_untrained_model_codes_every_token_with_log2_v_bits(orders: list[int]) -> None:
    model = LanguageModel(config(ngram_orders=orders), vocabulary=300)
    history = torch.randint(300, (2, model.context + 9))
    seen, _ = model(history[:, : model.context], model.init_state(2))
    predicted = distribution(model, seen, 2)
    assert predicted.shape == (2, 300)
    assert (predicted.log2() + math.log2(300)).abs().max() < 1e-5
    nats, _ = model(history, model.init_state(2), torch.randint(300, (2, 10)))
    assert (nats / math.log(2) - math.log2(300)).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("orders", "lags", "embedded", "vocabulary"),
    [
        ([], [], [], 257),
        ([], [], [], 300),
        (ORDERS, [], [], 257),
        (ORDERS, [], [2, 0], 257),
        (ORDERS, [], [4], 300),
        (ORDERS, [[2], [1, 3]], [], 257),
        (ORDERS, [[2], [1, 3]], [], 600),
    ],
)
def test_the_cost_of_targets_is_what_the_stepwise_form_says(
    orders: list[int], lags: list[list[int]], embedded: list[int], vocabulary: int, device: torch.device
) -> None:
    """The counts, too, are those of a CPU, and the costs of either form there."""
    torch.manual_seed(1)
    given = config(ngram_orders=orders, ngram_lags=lags, ngram_embeddings=embedded)
    model = LanguageModel(given, vocabulary).double()
    with torch.no_grad():
        for name, p in model.named_parameters():
            # Beyond log-odds of 20, softplus is off by 1e-9.
            p.add_((0.03 if name.startswith("mixing") else 0.3) * torch.randn_like(p))
    context, times = model.context, 30
    tokens = torch.randint(vocabulary, (3, context - 1 + times))
    there = deepcopy(model).to(device)
    for one in (model, there):
        if one.mixing is not None:
            given_tokens = tokens.to(one.embedding.device)
            one.mixing.take_in(given_tokens, [])
            assert one.mixing.counts.any()
            assert torch.equal(one.mixing.counts.cpu(), model.mixing.counts)
    targets = torch.randint(vocabulary, (3, times))
    targets[0, 3:], targets[1, 5] = -1, -1
    nats, _ = model(tokens, model.init_state(3), targets)
    state, parts = there.init_state(3), []
    for t in range(times):
        seen, state = there(tokens[:, t : t + context].to(device), state)
        parts.append(distribution(there, seen, 3).log())
    predicted = torch.stack(parts, 1).cpu()
    tolerance = 1e-10 if device.type == "cpu" else 1e-8
    assert (predicted.exp().sum(-1) - 1).abs().max() < tolerance
    expected = -predicted.gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    parallel, _ = there(tokens.to(device), there.init_state(3), targets.to(device))
    for found in (nats, parallel.cpu()):
        assert (found[targets >= 0] - expected[targets >= 0]).abs().max() < tolerance
        assert (found[targets < 0] == 0).all()
    assert expected.std() > 0.1


def test_embedded_contexts_are_the_orders_that_are_named() -> None:
    """With what stands so far back changed, what the network says changes, or does not."""
    for embedded, changes in [([1], [True, False, False]), ([2], [True, True, False]), ([1, 4], [True] * 3)]:
        torch.manual_seed(1)
        model = LanguageModel(config(ngram_embeddings=embedded), 300)
        torch.nn.init.normal_(model.grams)
        torch.nn.init.normal_(model.output)
        history = torch.randint(300, (1, model.context))
        targets = torch.tensor([[7]])
        for lag, changed in zip((1, 2, 4), changes, strict=True):
            other = history.clone()
            other[0, -lag] += 1
            one, two = (model(one, model.init_state(1), targets, True)[0].item() for one in (history, other))
            assert (one != two) == changed, (embedded, lag)


def test_no_hidden_channels_are_no_mlp() -> None:
    """As Mamba stacks its blocks. Everything that is left has its gradient."""
    torch.manual_seed(1)
    model, whole = LanguageModel(config(expansion=0.0), 40), LanguageModel(config(), 40)
    names = {name for name, _ in model.named_parameters()}
    assert {name for name, _ in whole.named_parameters()} - names == {
        f"layers.{depth}.mlp.{part}.weight" for depth in (0, 1) for part in ("up", "down")
    }
    torch.nn.init.normal_(model.output)
    nats, _ = model(torch.randint(40, (2, model.context + 4)), model.init_state(2), torch.randint(40, (2, 5)))
    nats.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("orders", [[], ORDERS])
def test_a_digit_costs_what_the_coder_takes_for_it(orders: list[int]) -> None:
    """The shares of archive/coder.py against the nats of the ledger, down to the least share; the gradient stays that
    of the probability itself."""
    torch.manual_seed(1)
    model = LanguageModel(config(ngram_orders=orders, logit_cap=0.0), 300)
    history, targets = torch.randint(300, (1, model.context)), torch.arange(300).unsqueeze(1)
    torch.nn.init.normal_(model.output, std=30.0)
    if model.mixing is not None:
        torch.nn.init.normal_(model.mixing.node.data[:, HIDDEN:], std=10.0)
    seen, _ = model(history, model.init_state(1))
    nats, _ = model(history.expand(300, -1), model.init_state(300), targets)
    expected, rounding, radices = np.zeros(300), np.zeros(300), model.radices
    for target in range(300):
        node, below = 1, math.prod(radices)
        for digit, radix in enumerate(radices):
            below //= radix
            shares = cumulative(model.following(seen, torch.tensor([[node]]), digit)[:, 0].numpy(force=True))[0]
            symbol = target // below % radix
            width = int(shares[symbol + 1] - shares[symbol])
            expected[target] -= math.log(width / 2**48)
            # Shares are whole, and at least 1.
            rounding[target] += math.log(max(2, width) / max(1, width - 1))
            node = node * radix + symbol
    assert expected.max() > 48 * math.log(2) - 0.01
    assert (np.abs(nats[:, 0].numpy(force=True) - expected) < 1e-4 * expected + 1e-5 + rounding).all()
    reached = model.output if model.mixing is None else model.mixing.node
    (gradient,) = torch.autograd.grad(nats[expected.argmax(), 0], reached)
    assert gradient.abs().max() > 0.1


def test_returned_state_carries_no_gradient() -> None:
    model = LanguageModel(config(), vocabulary=40)
    _, state = model(torch.zeros(1, model.context + 3, dtype=torch.int64), model.init_state(1))
    assert not any(part.requires_grad for layer in state for part in layer if isinstance(part, torch.Tensor))


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_large_vocabularies_cost_the_same_in_parts(
    compiled: bool, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of 7 tokens, of which the last has 4: costs, gradients, targets that are no tokens; and no tensor of all
    logits is kept for the gradients."""
    torch.manual_seed(2)
    model = LanguageModel(config(ngram_orders=[], logit_cap=15.0), 300).double().to(device)
    torch.nn.init.normal_(model.output)
    x = torch.randn(2, 16, model.output.shape[0], dtype=torch.float64, device=device, requires_grad=True)
    targets, weight = torch.randint(300, (2, 16), device=device), torch.rand(2, 16, device=device)
    targets[0, 3] = targets[1, -2:] = -1
    found, kept = [], []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[-1] = max(kept[-1], tensor.numel())
        return tensor

    monkeypatch.setattr("model.cuda.lm.LanguageModel.part_logits", 7 * 300 + 5)
    for parts in (False, True):
        if parts:
            use_kernels(model)
        torch._dynamo.reset()
        counter = CompileCounterWithBackend("aot_eager")
        cost = torch.compile(model.cost, backend=counter, fullgraph=True, dynamic=False) if compiled else model.cost
        kept.append(0)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            nats = cost(x, targets, None)
        assert counter.frame_count == int(compiled)
        found.append([nats, *torch.autograd.grad((nats * weight).sum(), [x, model.output])])
    assert (nats[targets < 0] == 0).all()
    if not compiled:
        assert kept[0] == 32 * 300
    assert kept[1] < 32 * 300 and kept[1] <= max(model.output.numel(), x.numel())
    for a, b in zip(*found, strict=True):
        assert (a - b).abs().max() < 1e-10 * max(1.0, float(a.detach().abs().max()))
