"""Replay draws from what is coded, alike for any number of ranks, and teaches what an epoch without it does not."""

from dataclasses import replace

import pytest
import torch
from test_archive_coding import PLACE, PLAIN, corpus_source, new_learner, new_ledger, plain_engine  # noqa: F401

from data.lanes import Lanes
from train.config import TrainConfig
from train.engine import Place
from train.loop import Learner, one_epoch
from train.replay import Replay

CONFIG = TrainConfig(lanes=4, segment_tokens=8, replay=3)
PLAN = Lanes(4 * 8 * 1000, 4, 8)


def past(steps: int, kept: int = 100) -> torch.Tensor:
    """Of lane r after so many steps of 8 tokens: 1000 r, 1000 r + 1, ..., and -7 where nothing was coded."""
    coded = torch.arange(8 * steps) + 1000 * torch.arange(4).unsqueeze(1)
    return torch.cat([torch.full((4, kept), -7), coded], 1)[:, -kept:]


@pytest.mark.parametrize("steps", [3, 7, 40])
def test_segments_are_pieces_of_what_each_lane_coded(steps: int) -> None:
    drawn = Replay(CONFIG, PLACE, 1).draw(past(steps), PLAN, steps)
    assert drawn is not None
    inputs, targets = drawn
    assert inputs.shape == (12, 16)
    assert (inputs.diff() == 1).all()
    assert (inputs // 1000 == torch.arange(4).repeat_interleave(3).unsqueeze(1)).all()
    assert torch.equal(targets, inputs[:, 4:] + 1)
    assert (targets.max(1).values % 1000 < 8 * steps).all()


def test_segments_are_twice_as_long_as_those_of_the_stage() -> None:
    plan = Lanes(4 * 8 * 40, 4, "4@0,16@0.5")
    # 160 tokens by 4, then by 16: after 72 tokens, and after 192.
    for step, coded, length in [(18, 72, 8), (42, 192, 32)]:
        assert plan.segment(step)[0] == coded
        inputs, targets = Replay(CONFIG, PLACE, 1).draw(past(coded // 8), plan, step)  # type: ignore[misc]
        assert inputs.shape == (12, length)
        assert targets.shape == (12, length - length // 4)
        assert (targets >= 0).all()
    # Two lengths of what comes, not of what came, have to be known.
    assert Replay(CONFIG, PLACE, 1).draw(past(2), Lanes(4 * 160, 4, "4@0,16@0.1"), 4) is None


def test_a_schedule_says_how_many_at_what_part_of_the_epoch() -> None:
    draw = Replay(replace(CONFIG, replay="3@0,1@0.25,0@0.5"), PLACE, 1)
    drawn = [draw.draw(past(min(step, 40)), PLAN, step) for step in range(3, PLAN.steps)]
    numbers = [0 if one is None else len(one[0]) // 4 for one in drawn]
    assert numbers == [3] * 247 + [1] * 250 + [0] * 500


def test_inputs_bring_the_context_that_they_were_coded_in() -> None:
    bare, deep = (Replay(CONFIG, PLACE, context).draw(past(9, kept=50 + context - 1), PLAN, 9) for context in (1, 6))
    assert bare is not None
    assert deep is not None
    assert deep[0].shape == (12, 5 + 16)
    assert torch.equal(deep[0][:, 5:], bare[0])
    assert torch.equal(deep[1], bare[1])
    assert (deep[0].diff() == 1).all()


def test_every_place_of_the_past_is_drawn_and_none_twice_as_often() -> None:
    draw = Replay(replace(CONFIG, replay=64), PLACE, 1)
    starts = []
    for steps in range(20, 120):
        drawn = draw.draw(past(steps, kept=40), PLAN, steps)
        assert drawn is not None
        starts.append(drawn[0][:, 0] % 1000 - 8 * steps + 40)
    counts = torch.cat(starts).bincount()
    assert len(counts) == 40 - 16
    assert counts.max() < 1.3 * counts.min()


def test_nothing_is_drawn_while_the_past_is_short() -> None:
    assert Replay(CONFIG, PLACE, 1).draw(past(2), PLAN, 2) is None


def test_ranks_draw_what_one_rank_does() -> None:
    whole = Replay(CONFIG, PLACE, 1).draw(past(9), PLAN, 9)
    parts = [
        Replay(CONFIG, Place(rank, 2, PLACE.device), 1).draw(past(9)[2 * rank :][:2], PLAN, 9) for rank in range(2)
    ]
    for index in range(2):
        assert torch.equal(whole[index], torch.cat([part[index] for part in parts]))  # type: ignore[index]


def test_tokens_that_were_none_are_not_learned() -> None:
    ended = past(9)
    ended[3, -30:] = -1
    inputs, targets = Replay(CONFIG, PLACE, 1).draw(ended, PLAN, 9)  # type: ignore[misc]
    assert inputs.min() == 0
    assert (targets[9:] == -1).any()
    assert (targets[:9] >= 0).all()


def epoch(train: TrainConfig, tokens: int, orders: list[int]) -> tuple[Learner, float]:
    case = replace(PLAIN, tokens=tokens, train=train, model=replace(PLAIN.model, ngram_orders=orders))
    learner, ledger = new_learner(case), new_ledger(case)
    for _ in one_epoch(learner, case.lanes, corpus_source(case), ledger):
        pass
    return learner, ledger.totals()[0]


def test_a_network_that_learns_again_makes_the_rest_shorter() -> None:
    plain, replayed = (epoch(replace(PLAIN.train, replay=replay), 4000, [])[1] for replay in (0, 2))
    assert replayed < 0.99 * plain


def test_counts_know_nothing_of_it() -> None:
    plain, replayed = (epoch(replace(PLAIN.train, replay=replay), 600, [1, 2])[0] for replay in (0, 2))
    assert not torch.equal(plain.model.embedding, replayed.model.embedding)
    assert plain.model.mixing is not None
    assert replayed.model.mixing is not None
    assert torch.equal(plain.model.mixing.counts, replayed.model.mixing.counts)


def test_accumulation_makes_no_difference() -> None:
    one, two = (epoch(replace(PLAIN.train, replay=1, accumulation=parts), 1200, [1])[1] for parts in (1, 2))
    assert one == pytest.approx(two, rel=1e-5)
