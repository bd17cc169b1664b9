"""The one-epoch plan: every token exactly once, whatever the numbers."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data.lanes import Lanes


@given(
    tokens=st.integers(1, 400), rows=st.integers(1, 5), world=st.integers(1, 4), accumulation=st.integers(1, 3),
    segment=st.integers(1, 60),
)  # fmt: skip
@example(tokens=1, rows=5, world=3, accumulation=1, segment=32)
def test_every_token_is_shown_exactly_once(tokens: int, rows: int, world: int, accumulation: int, segment: int) -> None:
    lanes_number = rows * world * accumulation
    plan, corpus = Lanes(tokens, lanes_number, segment), np.arange(tokens)
    shown = []
    for step in range(plan.steps):
        batch = [plan.targets(step, plan.share(rank, world), lambda a, b: corpus[a:b]) for rank in range(world)]
        whole = np.concatenate(batch)
        assert whole.shape == (lanes_number, batch[0].shape[1])
        assert 1 <= whole.shape[1] <= segment
        assert (whole >= 0).sum() == plan.valid_tokens(step) > 0
        shown.append(whole)
    stream = np.concatenate(shown, 1)
    # Lane by lane, the segments put together are the corpus, in order.
    assert np.array_equal(stream[stream >= 0], corpus)


@given(tokens=st.integers(12, 300), segment=st.integers(1, 50), step=st.integers(0, 30))
def test_the_global_batch_is_the_same_for_any_world_size(tokens: int, segment: int, step: int) -> None:
    plan = Lanes(tokens, 12, segment)
    step %= plan.steps
    batches = [
        np.concatenate([plan.targets(step, plan.share(r, world), lambda a, b: np.arange(a, b)) for r in range(world)])
        for world in (1, 2, 3, 4, 6, 12)
    ]
    assert all(np.array_equal(batches[0], batch) for batch in batches)


def test_a_plan_by_hand() -> None:
    plan = Lanes(tokens=10, lanes=4, segment_tokens=2)
    assert (plan.lane_tokens, plan.steps) == (3, 2)
    read = lambda a, b: np.arange(a, b)  # noqa: E731
    assert plan.targets(0, range(4), read).tolist() == [[0, 1], [3, 4], [6, 7], [9, -1]]
    assert plan.targets(1, range(2, 4), read).tolist() == [[8], [-1]]
    assert [plan.valid_tokens(step) for step in range(2)] == [7, 3]


def test_ranks_that_cannot_share_the_lanes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"train\.lanes 16 cannot be shared by 3 ranks: take a multiple of 3"):
        Lanes(1000, 16, 8).share(0, 3)


@pytest.mark.parametrize("numbers", [(1000, 16, 0), (1000, 0, 8), (0, 16, 8)])
def test_empty_plans_are_refused(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"train\.lanes .* and train\.segment_tokens .* must be 1 or more"):
        Lanes(*numbers)
