"""Context mixing beside the network: counts of what followed each context before, mixed by a small network.

A token is the path of its D = ceil(log2 V) bits through a binary tree whose inner nodes are numbered from 1, as in a
heap. Three bits make a digit; the first digit may have fewer. For every context (the empty one, the k latest tokens,
tokens at given distances, the words so far) and every node, a table counts how many zeros and ones followed, in all
lanes, or in the lane of the token. A bit adds one to its own count, and halves what the other count has above two, as
in PAQ (Mahoney 2005, "Adaptive weighing of context models for lossless data compression"). At a node,

    s_k = gain[n_0, n_1] log((n_1 + 0.2) / (n_0 + 0.2)) + offset[n_0, n_1]        of context k, counts in 15 levels
    s_K = log-odds of the node by the network's softmax
    P(1) = sigmoid(sum_k w_k s_k + b)

This is PAQ's logistic mixing with two changes. The weights w are the output of a small network (Ha et al. 2016,
arXiv:1609.09106), whose inputs are the s_k, the counts, the node and the language model's last layer. And all
parameters learn by gradient, together with the model's. A known token needs the D nodes of its path. A decoder goes
digit by digit: it needs the seven nodes below the node that it has reached.

The network has a share in what was counted, too: its input names the token that came last after the longest known
context (`recall`), as records of the Hutter Prize give their networks the distribution of PPM. And it learns from its
own nats beside those of the mixture, which say little about what the counts know already.

`Contexts` (model/contexts.py) hashes what precedes a token. The hashes choose rows in the tables of counts.

Tables take in only tokens that are already coded, a few of each lane at a time, from all lanes of all ranks, so that
every rank has the same tables. The network learns once a step, which is longer, so that the counts know what repeats
within a step before it does. A row of 16 bytes has the counts of seven nodes, which are three levels of the tree below
one node, and 16 more bits of the context's hash, which say whose row it is. Four rows fill a line of the processor's
cache. A context that has no row in its line takes the place of the row with the smallest counts, as in PAQ. All tables
together have K 2^(rows_log2 + 4) bytes, however long the corpus is. `latest` has four more bytes for each row of the
first O contexts, those of the latest tokens: which token came last, and how often in a row.

Shapes: `B` rows of the batch, `T` time, `D` bits, `N` nodes, `S` nodes that begin a row, `W` width, `K` contexts, `O`
contexts of the latest tokens, `V` vocabulary, `R` = 8 values of a digit.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.contexts import OTHER_ODD, Contexts
from model.layers import coder_nats, parameter, precise, rows

HIDDEN = 128
# The network also learns from its own nats, times this: the note on shorter codes in research/.
ALONE = 0.5
# Counts are grouped in levels. These are the smallest counts of all levels after the first.
EDGES = [1, 2, 3, 4, 5, 6, 7, 9, 12, 16, 24, 40, 72, 136]
LEVELS = len(EDGES) + 1
# Levels of the tree in a digit, and paths through them. A row has the counts of a digit's nodes.
STRIDE, RADIX = 3, 8
# 16-bit words in a row, seven pairs of counts and a mark of its context, and rows in a cache line.
ROW, WAYS = RADIX, 4


def pick(table: Tensor, index: Tensor) -> Tensor:
    """Entries [B, T, N, ...] of a table [B, T, P, ...], with an index [B, T, N] below P."""
    first = torch.arange(0, table.shape[:3].numel(), table.shape[2], device=table.device)
    return rows(table.flatten(0, 2), index + first.view(*table.shape[:2], 1))


class ContextMixing(nn.Module):
    """`take_in(tokens [B, C + T])` counts tokens, and returns what the counts said before. With that,
    `see(counts [B, T, D, K], logits [B, T, V], x [B, T, W])` returns what `nats` needs for the costs of tokens; with
    hashes [K, B, 1] of a token's contexts, what `digit` needs for the probabilities of a digit."""

    counts: Tensor
    latest: Tensor
    table: Tensor
    scales: Tensor
    evidence: Tensor
    shifts: Tensor
    certain: Tensor
    begins: Tensor
    ends: Tensor
    row: Tensor
    below: Tensor
    sides: Tensor
    deep: Tensor
    inside: Tensor
    level: Tensor

    def __init__(self, config: Any, vocabulary: int, width: int):
        """`config` is a ModelConfig."""
        super().__init__()
        self.chunk = config.ngram_chunk or 1 << 30
        self.vocabulary, self.rows_log2, self.bits = vocabulary, config.ngram_rows_log2, (vocabulary - 1).bit_length()
        self.contexts = Contexts(config, vocabulary)
        self.tables, self.recalled = self.contexts.number, 1 + len(config.ngram_orders)
        self.radices = [1 << min(STRIDE, left) for left in range(self.bits, 0, -STRIDE)][::-1]
        nodes = 1 << self.bits
        self.register_buffer("counts", torch.zeros(self.tables << self.rows_log2, ROW, dtype=torch.int16))
        self.register_buffer("latest", torch.zeros((self.recalled << self.rows_log2) + 1, dtype=torch.int32))
        pairs, level = torch.arange(1 << 16), torch.bucketize(torch.arange(256), torch.tensor(EDGES), right=True)
        zeros, ones = pairs & 255, pairs >> 8
        sides = [torch.eye(2 << level).repeat_interleave(4 >> level, 0) for level in range(STRIDE)]
        shifts, row = torch.arange(self.bits, 0, -1), torch.arange(STRIDE * len(self.radices))[-self.bits :] // STRIDE
        begins = (STRIDE * torch.arange(len(self.radices), 0, -1)).clamp(max=self.bits)
        fixed = {
            "level": level,
            "table": torch.arange(self.tables).view(-1, 1, 1, 1),
            "scales": LEVELS**2 * torch.arange(self.tables),
            # Of a pair of counts, as it stands in a row: log-odds, how much was seen, and the pair of levels.
            "evidence": torch.stack(
                [
                    ((ones + 0.2) / (zeros + 0.2)).log(),
                    (zeros + ones).log1p() - 1.5,
                    level[zeros] * LEVELS + level[ones],
                ],
                1,
            ),
            # 1 where a value of a digit is to the left, or to the right, of one of its nodes: [R, 2 R].
            "sides": torch.cat([*sides, torch.zeros(RADIX, 2)], 1),
            # The nodes of a digit: their numbers among those as far below its root, and how far that is.
            "inside": torch.tensor([0, 0, 1, 0, 1, 2, 3]),
            "deep": torch.tensor([0, 1, 1, 2, 2, 2, 2]),
            # How far the roots of digits are above the leaves, and how far the ends of digits are.
            "begins": begins,
            "ends": STRIDE * torch.arange(len(self.radices) - 1, -1, -1),
            # How far the nodes of a path are above the leaves; the digit of each, and how far it is below its root.
            "shifts": shifts,
            # Nodes from these on have no token below them on the side of the ones, so that their bit is zero.
            "certain": (nodes + vocabulary - 1 + (1 << shifts - 1)) >> shifts,
            "row": row,
            "below": begins[row] - shifts,
        }
        for name, value in fixed.items():
            self.register_buffer(name, value, persistent=False)
        features, outputs = 3 * self.tables + 2, self.tables + 2
        # Gain and offset of each pair of levels. The more contexts, the less each says at first.
        gain = torch.tensor([0.8 * self.tables**-0.5, 0.0])
        self.scale = parameter(gain.repeat(self.tables * LEVELS**2, 1), "vector", lr=0.1)
        self.features = parameter(torch.randn(features, HIDDEN) * features**-0.5, "matrix")
        # What a node, and the language model's last layer, add to the hidden layer and to the outputs.
        self.node = parameter(torch.zeros(nodes, HIDDEN + outputs), "vector", lr=0.5)
        self.gate = parameter(torch.zeros(width, HIDDEN + outputs), "vector", lr=0.2)
        self.weigh = parameter(torch.zeros(HIDDEN, outputs), "matrix")

    def lines(self, hashes: Tensor, roots: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers of lines, and marks of rows in their lower 16 bits, [K, B, T, S], for the hashes [K, B, T] of the
        first K contexts, and roots [B, T, S]."""
        mixed = hashes.unsqueeze(-1) + roots * OTHER_ODD >> 18
        lines = (1 << self.rows_log2) // WAYS
        return self.table[: len(hashes)] * lines + (mixed & lines - 1), mixed >> self.rows_log2

    def find(self, lines: Tensor, marks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For lines and marks [...]: the rows of the line [..., WAYS, ROW], whether one has the mark, and which."""
        rows = self.counts.view(-1, WAYS * ROW).index_select(0, lines.flatten()).view(*lines.shape, WAYS, ROW)
        return rows, *(rows[..., -1] == marks.unsqueeze(-1).to(torch.int16)).max(-1)

    def slots(self, hashes: Tensor, roots: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers of rows, and whether a context has one [K, B, T, S], for what `lines` takes."""
        lines, marks = self.lines(hashes, roots)
        _, found, way = self.find(lines, marks)
        return lines * WAYS + way, found

    def known(self, hashes: Tensor, roots: Tensor) -> Tensor:
        """Rows [K, B, T, S, ROW], for what `lines` takes: empty where a context has none."""
        slots, found = self.slots(hashes, roots)
        return rows(self.counts, slots) * found.unsqueeze(-1)

    def recall(self, hashes: Tensor) -> tuple[Tensor, Tensor]:
        """The token that came last after the longest context of the latest tokens that has a row; and a number below
        O LEVELS, which says what context it was, and how often in a row the token came. Both [B, T], for hashes
        [K, B, T]."""
        hashes = hashes[: self.recalled]
        slots, found = self.slots(hashes, torch.ones_like(hashes[0]).unsqueeze(-1))
        which = (found * self.table[: self.recalled]).amax(0, keepdim=True)
        last = self.latest[slots.gather(0, which)]
        return (last >> 8)[0, ..., 0], (which * LEVELS + self.level[last & 255])[0, ..., 0]

    def path(self, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """For each token: the roots of its digits [B, T, S], its nodes [B, T, D], its bits at these nodes, and their
        places among the rows of all digits. A negative target stands for the first token."""
        leaf = (targets.clamp(min=0) + (1 << self.bits)).unsqueeze(-1)
        roots, nodes = leaf >> self.begins, leaf >> self.shifts
        slot = nodes - (roots[..., self.row] - 1 << self.below) - 1
        return roots, nodes, leaf >> self.shifts - 1 & 1, ROW * self.row + slot

    def pairs(self, hashes: Tensor, targets: Tensor) -> Tensor:
        """Counts [B, T, D, K] at the nodes of targets [B, T], as they stand in rows, for hashes [K, B, T]."""
        roots, _, _, slot = self.path(targets)
        found = self.known(hashes, roots).flatten(3)
        return found.gather(3, slot.expand(self.tables, *slot.shape)).movedim(0, 3)

    @torch.no_grad()
    def take_in(self, whole: Tensor, looked: list[Tensor]) -> list[Tensor]:
        """Count the last n tokens of all lanes, `whole` [B, C + n], chunk by chunk; -1 is no token. Returns what
        `recall` and `pairs` found for each before its chunk was counted. `looked` is that of the first ones, if they
        are."""
        lanes = torch.arange(len(whole), device=whole.device)
        hashes, targets = self.contexts.hashes(whole[:, :-1].clamp(min=0), lanes), whole[:, self.contexts.length :]
        found = [looked] if looked else []
        for start in range(looked[0].shape[1] if looked else 0, targets.shape[1], self.chunk):
            part, wanted = hashes[..., start : start + self.chunk], targets[:, start : start + self.chunk]
            found.append([*self.recall(part), self.pairs(part, wanted)])
            self.learn(part, wanted)
        return [torch.cat(parts, 1) for parts in zip(*found, strict=True)]

    def see(self, known: Tensor, logits: Tensor, x: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        """`known`; for each digit, the network's probabilities of its values after every path through the digits before
        it [B, T, .., R]; and the network's last layer. Known are counts by `pairs` for `nats`, and hashes [K, B, T] for
        `digit`."""
        ways, lacking = precise(logits).softmax(-1), (1 << self.bits) - self.vocabulary
        ways = F.pad(ways, (0, lacking)) if lacking else ways
        levels: list[Tensor] = []
        for radix in self.radices[::-1]:
            levels.insert(0, ways.unflatten(-1, (-1, radix)))
            ways = levels[0].sum(-1)
        # The first digit may have fewer values than R: pad it, so that all have the same shape.
        levels[0] = F.pad(levels[0].unsqueeze(-1), (0, RADIX // self.radices[0] - 1)).flatten(-2)
        return known, levels, x

    def nats(self, seen: tuple[Tensor, list[Tensor], Tensor], targets: Tensor) -> Tensor:
        """Nats [B, T] of targets [B, T]; 0 where a target is negative. Their gradient is that of the mixture's nats and
        of ALONE times the network's own."""
        pairs, levels, x = seen
        roots, nodes, bits, slot = self.path(targets)
        paths = zip(levels, roots.split(1, -1), strict=True)
        ways = torch.cat([pick(ways, root % ways.shape[2]) for ways, root in paths], 2)
        with torch.autocast(x.device.type, enabled=False):
            sides = pick((ways @ self.sides).flatten(2).unflatten(2, (-1, 2)), slot)
            odds = torch.stack(self(pairs, sides, x, nodes))
        nats, alone = F.softplus(torch.where(bits == 1, -odds, odds)).masked_fill(nodes >= self.certain, 0.0)
        alone = ALONE * alone.sum(-1)
        digits = nats.split([radix.bit_length() - 1 for radix in self.radices], -1)
        whole = coder_nats(nats.sum(-1), torch.stack([digit.sum(-1) for digit in digits], -1))
        return (whole + (alone - alone.detach())).masked_fill(targets < 0, 0.0)

    def digit(self, seen: tuple[Tensor, list[Tensor], Tensor], node: Tensor, digit: int) -> Tensor:
        """Probabilities [B, P, radices[digit]] of a digit at its root `node` [B, P], from `see` of one token."""
        hashes, levels, x = seen
        inner = self.radices[digit] - 1
        deep, start = self.deep[:inner], max(0, self.bits - STRIDE * (len(self.radices) - digit))
        nodes = (node.unsqueeze(-1) << deep) + self.inside[:inner]
        pairs = self.known(hashes, node.unsqueeze(-1))[..., 0, :inner].movedim(0, 3)
        ways = levels[digit][:, 0]
        ways = ways.gather(1, (node % ways.shape[1]).unsqueeze(-1).expand(-1, -1, RADIX))
        with torch.autocast(x.device.type, enabled=False):
            sides = (ways @ self.sides).unflatten(-1, (-1, 2))[..., :inner, :]
            odds = self(pairs, sides, x, nodes)[0].masked_fill(nodes >= self.certain[start + deep], -1e9)
            logs = F.logsigmoid(torch.stack([-odds, odds], -1)).flatten(-2)
            return (logs @ self.sides[:: RADIX // (inner + 1), : 2 * inner].T).exp()

    def forward(self, pairs: Tensor, sides: Tensor, x: Tensor, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Log-odds [B, T, N] of a one at `nodes` [B, T, N]: mixed, and the network's own. `pairs` [B, T, N, K] are
        their counts as they stand in rows, `sides` [B, T, N, 2] the network's probabilities to the left and to the
        right, and x [B, T, W] its last layer."""
        ratio, times, cell = F.embedding(pairs.view(torch.uint16).int(), self.evidence).unbind(-1)
        gain, offset = rows(self.scale, self.scales + cell.long()).unbind(-1)
        network = (sides + 1e-9).log().diff()
        inputs = torch.cat([gain * ratio + offset, network], -1)  # [B, T, N, K + 1]
        features = torch.cat([inputs, inputs.abs() - 1, times], -1).detach()
        number = self.weigh.shape[1]
        added = rows(self.node, nodes) + (precise(x) @ self.gate).unsqueeze(2)
        hidden = F.relu(features @ self.features + added[..., :HIDDEN])
        # A CPU multiplies faster by a matrix of 16 columns than by one of fewer.
        weights = (hidden @ F.pad(self.weigh, (0, -number % 16)))[..., :number] + added[..., HIDDEN:]
        return (inputs * (1 + weights[..., :-1])).sum(-1) + weights[..., -1], network[..., 0]

    @torch.no_grad()
    def learn(self, hashes: Tensor, targets: Tensor) -> None:
        """Count `targets` [B, T] in the rows of the contexts before them, with hashes [K, B, T]; -1 is no token."""
        coded = targets >= 0
        leaf = (targets.clamp(min=0) + (1 << self.bits)).unsqueeze(-1)
        roots = leaf >> self.begins
        # The values of digits, as leaves, from 2 to 15, of trees of their own.
        values = (leaf >> self.ends) - (roots - 1 << STRIDE)
        lines, marks = self.lines(hashes, roots)
        wanted = lines << 16 | marks & 0xFFFF  # [K, B, T, S]
        keys, times = self.count(wanted, values, coded)
        # From leaves to the nodes above them. Nodes 2 and 3 are the sides of the root.
        for node in (4, 2):
            times[:, node : 2 * node] += times[:, 2 * node : 4 * node : 2] + times[:, 2 * node + 1 : 4 * node : 2]
        new = times.roll(-2, 1).view(-1, ROW, 2)
        lines = keys >> 16
        line, found, way = self.find(lines, keys)
        # Ties between rows with the same count at their root are broken by the key.
        any_one = (torch.arange(WAYS, device=keys.device) + keys.unsqueeze(-1)) & WAYS - 1
        first = line[..., 0]
        least = (((first & 255) + (first >> 8 & 255)) * WAYS + any_one).argmin(-1)
        way = torch.where(found, way, least)
        row = line[torch.arange(len(keys), device=keys.device), way] * found.unsqueeze(-1)
        old = row.view(torch.uint8).unflatten(1, (ROW, 2))
        counts = old - (old.clamp(min=2) - 2 >> 1) * (new > 0).flip(-1) + new
        # Floating point is faster than integers, and whole quotients of such small numbers come out exact.
        counts = counts * 255 / counts.amax(-1, keepdim=True).clamp(min=255)
        row = counts.to(torch.uint8).flatten(1).view(torch.int16)
        row[:, -1] = keys
        # Where several contexts write to one row in the same step, the one with the highest key does: deterministic.
        wish = (lines.diff(prepend=lines[:1]) > 0).cumsum(0) * WAYS + way
        rank = torch.arange(len(keys), device=keys.device)
        won = torch.zeros_like(rank.repeat(WAYS)).scatter_reduce_(0, wish, rank, "amax")[wish]
        self.counts.index_copy_(0, lines * WAYS + way, row[won])
        # Where several tokens follow a context, the last one stays. What has no row goes to the last place.
        slots, found = self.slots(hashes[: self.recalled], roots[..., :1])
        slots = slots.where(found & coded.unsqueeze(-1), len(self.latest) - 1)
        last, token = self.latest[slots], targets.unsqueeze(-1)
        self.latest[slots] = (token << 8 | (last & 255).clamp(max=254) * (last >> 8 == token) + 1).int()

    def count(self, wanted: Tensor, values: Tensor, coded: Tensor) -> tuple[Tensor, Tensor]:
        """The keys in `wanted` [K, B, T, S], sorted; and for each, how often it was wanted with each of the 2 R values
        [B, T, S]. Only tokens that are `coded` [B, T] count."""
        keys, key = wanted[:, coded].unique(return_inverse=True)  # [U], [K, M, S]
        times = (2 * RADIX * key + values[coded]).flatten().bincount(minlength=2 * RADIX * len(keys))
        return keys, times.int().view(-1, 2 * RADIX)
