"""Where two architectures will cross, told from all widths except the widest, which says whether that was right."""

from dataclasses import dataclass

import numpy as np

from data.errors import UsageError
from studies.scaling.laws import (
    COEFFICIENTS,
    LEAST_SIZES,
    NOT_IDENTIFIED,
    Interval,
    PowerLaw,
    bootstrap_laws,
    fit_power_law,
    interval_of,
    is_narrow,
)
from studies.scaling.lines import Line

# How far beyond the widest of the smaller sizes a crossing is looked for.
REACH = 10.0
GRID = 400
SAMPLES = 300
# Of the resampled pairs of laws, those that cross at all.
LEAST_CROSSING = 0.9


@dataclass(frozen=True)
class Predicted:
    """Two lines by their data terms against the parameters beside the embedding. `size` is where the laws of all widths
    except the widest cross, and `interval` its 95 % interval; None, and the reason in `why_none`, where they do not, or
    not certainly. `foretold` is which of them those laws call shorter at `held_out`, the widest, and `measured` which
    one is there; empty if the runs do not say."""

    first: str
    second: str
    size: float | None
    interval: Interval | None
    why_none: str
    held_out: float
    foretold: str
    measured: str

    @property
    def verdict(self) -> str:
        """Whether the widest is as foretold."""
        if not self.measured:
            return "not distinguishable there"
        return "right" if self.foretold == self.measured else "wrong"


def predict_crossing(first: Line, second: Line, measured: str, samples: int = SAMPLES) -> Predicted:
    """`measured` is the label of the line that is shorter at the widest. Raises UsageError with the reason if the
    smaller widths of one of the lines have no law."""
    laws, drawn, ends = [], [], []
    for line in (first, second):
        sizes, bits = line.values("parameters_non_embedding"), line.values("data_bits")
        smaller = sizes < sizes.max()
        if len(np.unique(sizes[smaller])) < LEAST_SIZES or smaller.sum() <= COEFFICIENTS:
            raise UsageError(f"it takes {LEAST_SIZES} widths, and one more to check")
        law = fit_power_law(sizes[smaller], bits[smaller])
        laws.append(law)
        drawn.append(bootstrap_laws(sizes[smaller], bits[smaller], law, samples))
        ends.append((sizes.min(), sizes[smaller].max(), sizes.max()))
    held_out = float(min(end[2] for end in ends))
    apart = laws[0].bits(held_out) - laws[1].bits(held_out)
    foretold = first.label if apart < 0 else second.label
    reach = np.geomspace(max(end[0] for end in ends), REACH * min(end[1] for end in ends), GRID)
    size, interval, why = crossing_of(laws[0], laws[1], reach), None, ""
    found = [at for one, other in zip(*drawn, strict=True) if (at := crossing_of(one, other, reach))]
    if size is None:
        why = f"the laws do not cross between {reach[0]:,.0f} and {reach[-1]:,.0f} parameters"
    elif len(found) < LEAST_CROSSING * samples:
        why = f"{NOT_IDENTIFIED}: of laws that fit as well, {len(found) / samples:.0%} cross"
    elif not is_narrow(interval_of(found)):
        why = f"{NOT_IDENTIFIED}: the 95 % interval spans more than a factor of ten"
    else:
        interval = interval_of(found)
    return Predicted(first.label, second.label, None if why else size, interval, why, held_out, foretold, measured)


def crossing_of(first: PowerLaw, second: PowerLaw, reach: np.ndarray) -> float | None:
    """The first size of `reach` [G], rising, where two laws cross; None if they do not."""
    apart = first.bits(reach) - second.bits(reach)
    changes = np.flatnonzero(np.sign(apart[1:]) != np.sign(apart[:-1]))
    if not len(changes):
        return None
    at = int(changes[0])
    share = apart[at] / (apart[at] - apart[at + 1])
    return float(np.exp(np.log(reach[at]) + share * (np.log(reach[at + 1]) - np.log(reach[at]))))
