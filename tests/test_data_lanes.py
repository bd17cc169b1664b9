"""The one-epoch plan: every token exactly once, whatever the numbers."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data.lanes import Lanes, longest_segment, read_schedule, read_stages


@st.composite
def schedules(draw: st.DrawFn, longest: int = 60) -> int | str:
    """A number, or up to five numbers in any order, each from a fraction of the lane on."""
    lengths = draw(st.lists(st.integers(1, longest), min_size=1, max_size=5))
    between = st.floats(0, 1, exclude_min=True, exclude_max=True)
    fractions = draw(st.lists(between, min_size=len(lengths) - 1, max_size=len(lengths) - 1, unique=True))
    stages = zip(lengths, [0, *sorted(fractions)], strict=True)
    return read_schedule(",".join(f"{length}@{fraction}" for length, fraction in stages))


@settings(deadline=None)
@given(
    tokens=st.integers(1, 400), rows=st.integers(1, 5), world=st.integers(1, 4), accumulation=st.integers(1, 3),
    segment=schedules(),
)  # fmt: skip
@example(tokens=1, rows=5, world=3, accumulation=1, segment=32)
@example(tokens=1, rows=5, world=3, accumulation=1, segment="4@0,32@0.5,2@0.75")
@example(tokens=90, rows=1, world=1, accumulation=1, segment="60@0,4@0.1,50@0.9")
def test_every_token_is_shown_exactly_once(
    tokens: int, rows: int, world: int, accumulation: int, segment: int | str
) -> None:
    lanes_number = rows * world * accumulation
    plan, corpus = Lanes(tokens, lanes_number, segment), np.arange(tokens)
    shown = []
    for step in range(plan.steps):
        batch = [plan.targets(step, plan.share(rank, world), lambda a, b: corpus[a:b]) for rank in range(world)]
        whole = np.concatenate(batch)
        assert whole.shape == (lanes_number, batch[0].shape[1])
        assert 1 <= whole.shape[1] <= plan.stage(step)[2] <= longest_segment(segment)
        assert (whole >= 0).sum() == plan.valid_tokens(step) > 0
        shown.append(whole)
    stream = np.concatenate(shown, 1)
    # Lane by lane, the segments put together are the corpus, in order.
    assert np.array_equal(stream[stream >= 0], corpus)


@settings(deadline=None)
@given(tokens=st.integers(12, 300), segment=schedules(), step=st.integers(0, 30))
def test_the_global_batch_is_the_same_for_any_world_size(tokens: int, segment: int | str, step: int) -> None:
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


@settings(deadline=None)
@given(tokens=st.integers(1, 5000), lanes=st.integers(1, 9), segment=schedules())
def test_a_stage_ends_with_the_first_whole_segment_at_or_after_its_fraction(
    tokens: int, lanes: int, segment: int | str
) -> None:
    """Segment after segment, as somebody would go who looks at each start alone."""
    plan, stages = Lanes(tokens, lanes, segment), read_stages(segment)
    step, start, current = 0, 0, 0
    while start < plan.lane_tokens:
        # Once left, a stage does not come back; stages that others ran past are left out.
        while current + 1 < len(stages) and start >= stages[current + 1][1] * plan.lane_tokens:
            current += 1
        stop = start + stages[current][0]
        assert plan.segment(step) == (start, min(stop, plan.lane_tokens))
        assert plan.stage(step)[2] == stages[current][0]
        step, start = step + 1, stop
    assert step == plan.steps
    # The learning rate follows the tokens, to the end of the last segment.
    assert [plan.progress(step) for step in range(plan.steps)] == [plan.segment(k)[0] / start for k in range(step)]


@settings(deadline=None)
@given(
    tokens=st.integers(1, 1 << 50), lanes=st.integers(1, 1 << 12), segment=st.integers(1, 1 << 20), part=st.floats(0, 1)
)
def test_one_number_is_the_plan_of_equal_segments(tokens: int, lanes: int, segment: int, part: float) -> None:
    plan = Lanes(tokens, lanes, segment)
    steps = -(-plan.lane_tokens // segment)
    step = min(int(part * steps), steps - 1)
    assert plan.steps == steps
    assert plan.segment(step) == (step * segment, min((step + 1) * segment, plan.lane_tokens))
    # To the last bit: learning rates, and so all that is learned, depend on it.
    assert plan.progress(step) == step / steps


def test_a_schedule_by_hand() -> None:
    plan = Lanes(tokens=100, lanes=1, segment_tokens="8@0,16@0.1,32@0.5")
    # A tenth is 10, in the second segment; half is 50, in the third of those after it.
    assert [plan.segment(step) for step in range(plan.steps)] == [
        (0, 8),
        (8, 16),
        (16, 32),
        (32, 48),
        (48, 64),
        (64, 96),
        (96, 100),
    ]
    assert plan.stages == [(0, 0, 1), (0, 0, 8), (2, 16, 16), (5, 64, 32), (7, 128, 1)]
    assert plan.progress(5) == 0.5


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (32, 32), ("32", 32), (" 64 @ 0", 64), ("8@0,16@.5", "8@0,16@0.5"),
        ("8@0.0, 16@1e-1,4@5e-1", "8@0,16@0.1,4@0.5"), ("8,16@0.5", "8@0,16@0.5"),
        ("8@-0.0,9@0.3333333333333333", "8@0,9@0.3333333333333333"), ("8@0,9@0.00001", "8@0,9@1e-05"),
    ],
)  # fmt: skip
def test_a_schedule_has_one_form(given: object, read: int | str) -> None:
    assert read_schedule(given) == read
    assert read_schedule(read) == read
    assert type(read_schedule(read)) is type(read)


@pytest.mark.parametrize(
    "value", [True, 1.5, None, [8], "", "x", "8,", "8@0,@0.5", "8@0;16@0.5", "8@0@1", "8@zero", "1" * 5000]
)
def test_what_is_no_number_and_no_schedule_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        read_schedule(value)


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        (0, "take 1 to 1,048,576"), ("8@0,0@0.5", "take 1 to"), ("1048577", "take 1 to"),
        ("8@0.1", "begin with 0"), ("8@0,16@0", "grow"), ("8@0,16@0.5,32@0.5", "grow"), ("8@0,16@0.5,32@0.25", "grow"),
        ("8@0,16@1", "below 1"), ("8@0,16@nan", "grow"), ("8@nan", "begin with 0"), ("8@0,16@inf", "below 1"),
        ("8@0,16@-1", "grow"),
    ],
)  # fmt: skip
def test_schedules_that_cannot_be_are_refused_with_the_remedy(value: object, remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy):
        read_schedule(value)


def test_a_schedule_of_replayed_segments_may_hold_none() -> None:
    assert read_schedule("1@0,0@.7", 0, 64) == "1@0,0@0.7"
    assert read_schedule("0", 0, 64) == 0
    with pytest.raises(ValueError, match="take 0 to 64"):
        read_schedule("1@0,65@0.5", 0, 64)


def test_ranks_that_cannot_share_the_lanes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"train\.lanes 16 cannot be shared by 3 ranks: take a multiple of 3"):
        Lanes(1000, 16, 8).share(0, 3)
