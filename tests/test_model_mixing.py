"""Context mixing: counts by hand, a true distribution, and the same price by either way to it."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from model.contexts import BYTE_SYMBOLS
from model.mixing import ALONE, LEVELS, ROW, STRIDE, WAYS, ContextMixing
from studies.sampling.command import distribution
from train.config import ModelConfig


def mixing(
    vocabulary: int = 50,
    orders: tuple[int, ...] = (1, 2, 3),
    rows_log2: int = 12,
    lags: tuple[list[int], ...] = (),
    words: int = 2,
    highest: tuple[list[int], ...] = (),
    local: tuple[int, ...] = (),
    chunk: int = 0,
) -> ContextMixing:
    torch.manual_seed(0)
    config = ModelConfig(
        ngram_orders=[*orders], ngram_lags=[*lags], ngram_highest=[*highest], ngram_local=[*local], ngram_words=words,
        ngram_rows_log2=rows_log2, ngram_chunk=chunk,
    )  # fmt: skip
    return ContextMixing(config, vocabulary, 4)


def hashes_of(mixing: ContextMixing, history: Tensor) -> Tensor:
    """Of the first lanes."""
    return mixing.contexts.hashes(history, torch.arange(len(history)))


def learn(mixing: ContextMixing, history: Tensor, targets: Tensor) -> None:
    mixing.learn(hashes_of(mixing, history), targets)


def predict(mixing: ContextMixing, history: Tensor) -> Tensor:
    """Probabilities [V] after a history [1, C], beside a network that knows nothing: the product of those of digits."""
    seen = mixing.see(hashes_of(mixing, history), torch.zeros(1, 1, mixing.vocabulary), torch.zeros(1, 1, 4))
    leaves = SimpleNamespace(
        parameters=mixing.parameters, radices=mixing.radices, following=mixing.digit, vocabulary=1 << mixing.bits
    )
    reached = distribution(leaves, seen, 1)  # type: ignore[arg-type]
    assert reached[0, mixing.vocabulary :].sum() == 0
    return reached[0, : mixing.vocabulary]


def counts(mixing: ContextMixing, history: list[int], token: int, lane: int = 0) -> list[list[tuple[int, int]]]:
    """Of each context, zeros and ones along a token's path."""
    roots, *_, places = mixing.path(torch.tensor([[token]]))
    hashes = mixing.contexts.hashes(torch.tensor([history]), torch.tensor([lane]))
    line, found, way = mixing.find(*mixing.lines(hashes, roots))
    paths = []
    for context in range(mixing.tables):
        pairs = []
        for digit, slot in (divmod(place, ROW) for place in places.flatten().tolist()):
            at = (context, 0, 0, digit)
            zeros, ones = line[at][way[at], slot].reshape(1).view(torch.uint8).tolist()
            pairs.append((zeros, ones) if found[at] else (0, 0))
        paths.append(pairs)
    return paths


@pytest.mark.parametrize("vocabulary", [2, 3, 20, 50, 64, 100, 257, 300])
def test_it_is_a_distribution_that_starts_uniform_and_learns_what_follows(vocabulary: int) -> None:
    model = mixing(vocabulary, (1, 2))
    history = torch.tensor([[1] * model.contexts.length])
    uniform = predict(model, history)
    assert (uniform - 1 / vocabulary).abs().max() < 1e-6
    learn(model, history.expand(3, -1), torch.tensor([[0], [0], [1]]))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.01 * torch.randn_like(p))
    p = predict(model, history)
    assert p.sum().item() == pytest.approx(1, abs=1e-5)
    assert p.min() > 0
    assert p[0] > p[1]
    assert p[1] > 2 * p[-1] or vocabulary == 2


def test_counts_by_hand() -> None:
    """Token 5 of 8 is right, left, right."""
    model = mixing(8, (1,))
    for token, (root, second, third) in [
        (5, [(0, 1), (1, 0), (0, 1)]),
        (5, [(0, 2), (2, 0), (0, 2)]),
        (5, [(0, 3), (3, 0), (0, 3)]),
        (5, [(0, 4), (4, 0), (0, 4)]),
        (4, [(0, 5), (5, 0), (1, 3)]),  # four ones, contradicted: (4 + 3) // 2
        (0, [(1, 4), (5, 0), (1, 3)]),
    ]:
        learn(model, torch.tensor([[7]]), torch.tensor([[token]]))
        assert counts(model, [7], 5) == [[root, second, third]] * 2
    learn(model, torch.tensor([[6]]), torch.tensor([[5]]))
    assert counts(model, [6], 5) == [[(1, 5), (6, 0), (1, 4)], [(0, 1), (1, 0), (0, 1)]]


def test_counts_of_one_step_add_up_and_end_at_255() -> None:
    model = mixing(8, (1,))
    learn(model, torch.full((1, 300), 7), torch.tensor([[1] * 200 + [-1] * 100]))
    assert counts(model, [7], 1)[0] == [(200, 0), (200, 0), (0, 200)]
    learn(model, torch.full((1, 100), 7), torch.ones(1, 100, dtype=torch.int64))
    assert counts(model, [7], 1)[0] == [(255, 0), (255, 0), (0, 255)]
    # Both ways in one step: each contradicts the other's past.
    learn(model, torch.full((1, 2), 7), torch.tensor([[1, 7]]))
    assert counts(model, [7], 1)[0][0] == (130, 1)


def test_counts_are_taken_in_chunk_by_chunk() -> None:
    """What a chunk finds is what the counts said after the chunks before it, whether the step comes at once, as in
    training, or token by token, as in an archive."""
    once, parts, by_hand, whole = (mixing(words=0, chunk=chunk) for chunk in (4, 4, 1 << 20, 0))
    length = once.contexts.length
    tokens = torch.tensor([[7, 8, 9] * 8, [1, 2] * 12])[:, : length + 10]
    tokens[1, -3:] = -1
    found = once.take_in(tokens, [])
    looked: list[Tensor] = []
    for known in (4, 8, 10):
        looked = parts.take_in(tokens[:, : length + known], looked)
    hashes, targets = hashes_of(by_hand, tokens[:, :-1].clamp(min=0)), tokens[:, length:]
    for start in (0, 4, 8):
        chunk = slice(start, start + 4)
        token, times = by_hand.recall(hashes[..., chunk])
        expected = token, times, by_hand.pairs(hashes[..., chunk], targets[:, chunk])
        for one in (found, looked):
            assert all(torch.equal(mine[:, chunk], theirs) for mine, theirs in zip(one, expected, strict=True))
        by_hand.learn(hashes[..., chunk], targets[:, chunk])
    assert torch.equal(once.counts, by_hand.counts) and torch.equal(parts.counts, by_hand.counts)
    assert torch.equal(once.latest, by_hand.latest) and torch.equal(parts.latest, by_hand.latest)
    # The pattern repeats within the step: known from the second chunk on, and never where all is counted at the end.
    assert not found[2][:, :4].any() and found[2][0, 4:].any(-1).all()
    assert not whole.take_in(tokens, [])[2].any()


def test_a_context_takes_the_place_of_another_and_never_its_counts() -> None:
    """A line a table, and two rows a context: whatever finds no room is unknown, not mistaken."""
    model = mixing(50, (2,), rows_log2=2)
    for a in range(30):
        learn(model, torch.tensor([[a, a + 1]]), torch.tensor([[a + 7]]))
    known = [counts(model, [a, a + 1], a + 7)[1] for a in range(30)]
    assert known[-1] == [(1 - bit, bit) for bit in (1, 0, 0, 1, 0, 0)]  # 36
    rows = [path[at : at + STRIDE] for path in known for at in (0, STRIDE)]
    assert sum(row != [(0, 0)] * STRIDE for row in rows) == WAYS
    assert all(count in [(0, 0), (0, 1), (1, 0)] for path in known for count in path)


def test_the_least_seen_makes_room() -> None:
    """A line of four rows, of which each context of one-digit tokens takes one."""
    model = mixing(8, (1,), rows_log2=2)
    for times, last in [(2, 0), (3, 1), (2, 2), (1, 3), (1, 4), (1, 5)]:
        for _ in range(times):
            learn(model, torch.tensor([[last]]), torch.tensor([[7]]))
    assert [counts(model, [last], 7)[1][0][1] for last in range(6)] == [2, 3, 2, 0, 0, 1]


def test_what_two_contexts_want_in_one_step_is_not_mixed() -> None:
    model, again = (mixing(50, (1, 2), rows_log2=3) for _ in range(2))
    history, targets = torch.randint(50, (1, 400)), torch.randint(50, (1, 399))
    learn(model, history, targets)
    pairs = history.unfold(1, 2, 1)[0]  # the same contexts, as rows of a batch and in another order
    learn(again, pairs.flip(0), targets[0, :, None].flip(0))
    assert torch.equal(model.counts, again.counts)


def test_longer_contexts_say_more() -> None:
    model = mixing(50, (1, 3))
    learn(model, torch.tensor([[1, 2, 3]]), torch.tensor([[4]]))
    known, half, new = (predict(model, torch.tensor([h]))[4] for h in ([1, 2, 3], [9, 9, 3], [9, 9, 9]))
    assert known > half > new > 1 / 50


@pytest.mark.parametrize("vocabulary", [10, 50, 257, 2048])
def test_it_recalls_what_came_last_after_the_longest_known_context(vocabulary: int) -> None:
    model, fresh = (mixing(vocabulary, words=0) for _ in range(2))
    for history, token in [([5, 6, 7], 8), ([5, 6, 7], 8), ([4, 6, 7], 9)]:
        learn(model, torch.tensor([history]), torch.tensor([[token]]))
    asked = torch.tensor([[5, 6, 7], [4, 6, 7], [3, 6, 7], [1, 1, 1]])
    tokens, places = (found.flatten().tolist() for found in model.recall(hashes_of(model, asked)))
    assert tokens == [8, 9, 9, 9]
    assert [divmod(place, LEVELS) for place in places] == [(3, 2), (3, 1), (2, 1), (0, 1)]
    # Of nothing that was seen, it says nothing.
    assert not any(found.any() for found in fresh.recall(hashes_of(fresh, asked)))


def test_the_last_token_of_a_step_stays_and_its_run_ends_at_255() -> None:
    model = mixing(words=0)
    history = torch.tensor([[5, 6, 7], [5, 6, 7], [5, 6, 7]])
    learn(model, history, torch.tensor([[9], [8], [-1]]))
    token, place = (found[0, 0].item() for found in model.recall(hashes_of(model, history)))
    assert (token, place) == (8, 3 * LEVELS + 1)
    for _ in range(300):
        learn(model, history, torch.tensor([[8], [8], [8]]))
    slots, found = model.slots(hashes_of(model, history)[:4], torch.ones(3, 1, 1, dtype=torch.int64))
    assert found.all() and (model.latest[slots] == (8 << 8 | 255)).all()
    assert model.recall(hashes_of(model, history))[1][0, 0] == 4 * LEVELS - 1


def test_the_network_learns_from_its_own_nats_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model = mixing()
    torch.manual_seed(1)
    history, targets, logits = torch.randint(50, (2, 12)), torch.randint(50, (2, 10)), torch.randn(2, 10, 50)
    targets[0, 3] = -1
    costs, slopes = [], []
    for share in (ALONE, 0.0):
        monkeypatch.setattr("model.mixing.ALONE", share)
        given = logits.clone().requires_grad_()
        pairs = model.pairs(hashes_of(model, history), targets)
        costs.append(model.nats(model.see(pairs, given, torch.zeros(2, 10, 4)), targets))
        costs[-1].sum().backward()
        assert given.grad is not None
        slopes.append(given.grad)
    assert torch.equal(*costs)
    own = logits.softmax(-1) - torch.nn.functional.one_hot(targets.clamp(min=0), 50)
    torch.testing.assert_close(slopes[0] - slopes[1], ALONE * own * (targets >= 0).unsqueeze(-1))


def hashes(model: ContextMixing, text: bytes) -> list[int]:
    history = [256] * model.contexts.length + list(text)
    return hashes_of(model, torch.tensor([history[-model.contexts.length :]]))[:, 0, 0].tolist()


def test_contexts_of_words() -> None:
    model = mixing(BYTE_SYMBOLS)
    word, pair = (lambda text, which=which: hashes(model, text)[which] for which in (-2, -1))  # type: ignore[misc]
    assert word(b"in the Hou") == word(b"(hou") == word(b"hOU") == word(b"_hou")
    assert len({word(text) for text in (b"hou", b"ho", b"uoh", b"hou ", b"houh", b"xhou")}) == 6
    assert word(b"one ") == word(b"other, ") == word(b"")
    assert pair(b"see the hou") == pair(b"The hou") == pair(b"THE: 'hou")
    assert len({pair(text) for text in (b"the hou", b"a hou", b"hou the", b"thehou", b"hou", b"the ")}) == 6
    assert pair(b"so the ") == pair(b"the -- ") != pair(b"then ")
    # The end of a document is no letter, and words longer than the window go by their end.
    assert hashes(model, b"a" * 40) == hashes(model, b"a" * 50)
    assert len(hashes(model, b"")) == 1 + 3 + 2
    assert len(hashes_of(mixing(300), torch.zeros(1, 9, dtype=torch.int64))) == 1 + 3


def test_contexts_of_three_words_and_of_the_second_before() -> None:
    model = mixing(BYTE_SYMBOLS, words=4)
    three, skipping = (lambda text, which=which: hashes(model, text)[which] for which in (-2, -1))  # type: ignore[misc]
    assert three(b"so see the hou") == three(b"No, see: THE 'hou") != three(b"to sea the hou")
    assert skipping(b"so see the hou") == skipping(b"so see a hou") != skipping(b"so sea the hou")
    for context in (three, skipping):
        found = {context(text) for text in (b"see the hou", b"see the ho", b"the see hou", b"see the hou ", b"hou")}
        assert len(found) == 5
    assert hashes(model, b"so see the hou")[:-2] == hashes(mixing(BYTE_SYMBOLS), b"so see the hou")
    # The word before is forgotten after 512 bytes, too, and so is the one before that.
    gaps = (b"so, see" + number * b" " + b"the hou" for number in (1, 500, 600))
    one, near, far = ([three(text), skipping(text)] for text in gaps)
    assert one == near != far
    assert three(b"so" + 600 * b" " + b"the hou") == three(600 * b" " + b"the hou")


def test_contexts_of_the_longest_word() -> None:
    model = mixing(BYTE_SYMBOLS, words=6)
    context, pair = (lambda text, which=which: hashes(model, text)[which] for which in (-2, -1))  # type: ignore[misc]
    about = b"in Jerusalem, "
    assert context(about + b"the hou") == context(b"of the JERUSALEM and a hou") != context(b"in jerusale, the hou")
    # Any byte that is no letter ends a word. A word that has not ended does not count, even if it is the longest.
    assert context(about + b"housebuildings") == context(b"jerusalem housebuildings")
    assert len({context(text) for text in (about, about + b"h", b"h", b"", b"to Salem, h", about[:-2] + b"h")}) == 6
    # It is forgotten after 512 bytes.
    assert context(about + 160 * b"ab " + b"hou") == context(about + b"hou") != context(about + 200 * b"ab " + b"hou")
    assert context(about + 200 * b"ab " + b"hou") == context(b"ab hou")
    assert pair(about + b"the hou") == pair(about + b"so the hou") != pair(about + b"a hou")
    # Words of more than 16 letters go by their last ones, and count as 16.
    assert context(b"x" + 16 * b"a" + b" h") == context(16 * b"a" + b" h") != context(15 * b"a" + b" h")
    assert hashes(model, b"so see the hou")[:-2] == hashes(mixing(BYTE_SYMBOLS, words=4), b"so see the hou")
    longer = torch.randint(90, 100, (2, model.contexts.length - 1 + 7))
    single = [hashes_of(model, longer[:, t : t + model.contexts.length]) for t in range(7)]
    assert torch.equal(hashes_of(model, longer), torch.cat(single, -1))


def test_words_are_forgotten_after_512_bytes_however_far_other_contexts_look() -> None:
    for lags in ((), ([900],)):
        model = mixing(BYTE_SYMBOLS, words=6, lags=lags)
        near, far, never = (
            hashes(model, text + b"the hou")[-6:] for text in (b"in Jerusalem, ", b"in Jerusalem" + 600 * b" ", b"")
        )
        assert near[1:] != far[1:] == never[1:]


def test_contexts_at_distances_see_these_tokens_alone() -> None:
    model = mixing(300, (1,), lags=([2], [1, 3], [40]))
    assert model.contexts.length == 40
    history = torch.randint(300, (1, 40))
    before = hashes_of(model, history)[2:, 0, 0]
    for lag in range(1, 41):
        other = history.clone()
        other[0, -lag] += 1
        assert (hashes_of(model, other)[2:, 0, 0] != before).tolist() == [lag == 2, lag in (1, 3), lag == 40]
    # Parallel or one by one: the same.
    longer = torch.randint(300, (2, 39 + 7))
    single = [hashes_of(model, longer[:, t : t + 40]) for t in range(7)]
    assert torch.equal(hashes_of(model, longer), torch.cat(single, -1))


def test_contexts_of_the_highest_see_it_and_the_latest_tokens_alone() -> None:
    model = mixing(300, (2,), highest=([0, 3], [2, 5]))
    assert model.contexts.length == 5

    def hashes(*latest: int) -> list[int]:
        return hashes_of(model, torch.tensor([latest[::-1]]))[2:, 0, 0].tolist()

    of_three, two_and_highest = hashes(10, 20, 30, 40, 50)
    assert hashes(30, 5, 6, 1, 2)[0] == of_three != hashes(30, 5, 31, 40, 50)[0]
    assert hashes(10, 20, 50, 9, 30)[1] == two_and_highest != hashes(10, 20, 30, 40, 51)[1]
    assert len({two_and_highest, hashes(20, 10, 30, 40, 50)[1], hashes(11, 20, 30, 40, 50)[1]}) == 3
    longer = torch.randint(300, (2, 4 + 7))
    single = [hashes_of(model, longer[:, t : t + 5]) for t in range(7)]
    assert torch.equal(hashes_of(model, longer), torch.cat(single, -1))


def test_local_contexts_are_those_of_their_lane() -> None:
    model = mixing(50, (2,), local=(0, 1), words=0)
    same = torch.tensor([[8, 9], [7, 9], [8, 9]])

    def known(lane: int) -> list[bool]:
        return [path[0] != (0, 0) for path in counts(model, [8, 9], 4, lane)]

    learn(model, same, torch.tensor([[-1], [4], [-1]]))
    # The empty context is all lanes'. Lane 1 has seen a 4, and it came after a 9.
    assert known(0) == [True, False, False, False] and known(1) == [True, False, True, True]
    hashes = [model.contexts.hashes(same, torch.tensor(lanes))[2:, :, 0] for lanes in ([0, 1, 2], [3, 3, 0])]
    assert hashes[0].unique().numel() == 6 and torch.equal(hashes[1][:, 2], hashes[0][:, 0])
    assert torch.equal(*hashes[1][:, :2].unbind(1))


def test_of_words_the_one_so_far_is_local_too() -> None:
    model, shared = mixing(BYTE_SYMBOLS, local=(2,)), mixing(BYTE_SYMBOLS)
    text = torch.full((2, model.contexts.length), 97)
    *most, pair, so_far, word, words = hashes_of(model, text).tolist()
    assert pair[0] != pair[1] and so_far[0] != so_far[1] and word[0] == word[1] and words[0] == words[1]
    assert [*most, word, words] == hashes_of(shared, text).tolist()
    assert model.tables == shared.tables + 2


def test_gradients_reach_the_network_and_every_parameter() -> None:
    model = mixing()
    torch.manual_seed(1)
    history = torch.randint(50, (2, 12))
    learn(model, history, torch.randint(50, (2, 10)))
    with torch.no_grad():
        model.weigh.add_(0.1)
        model.gate.add_(0.1)
    logits, x = (torch.randn(2, 10, size, requires_grad=True) for size in (50, 4))
    targets = torch.randint(50, (2, 10))
    pairs = model.pairs(hashes_of(model, history), targets)
    model.nats(model.see(pairs, logits, x), targets).sum().backward()
    for tensor in (logits, x, *model.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.abs().max() > 0
