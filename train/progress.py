"""The progress bar of an epoch, with the live compressed size."""

import sys

from tqdm import tqdm


class Progress(tqdm):
    """A bar over corpus bytes. On a terminal it moves smoothly; in a log file it adds a line from time to time."""

    def __init__(self, corpus_bytes: int, coded_bytes: int, fixed_bits: float, shown: bool):
        self.fixed_bits = fixed_bits
        super().__init__(
            total=corpus_bytes, initial=coded_bytes, disable=not shown, desc="one epoch", unit="B", unit_scale=True,
            dynamic_ncols=True, mininterval=0.2 if sys.stderr.isatty() else 15, smoothing=0.05,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {n_fmt} of {total_fmt}B, {remaining} left{postfix}",
        )  # fmt: skip

    def show(self, data_bits: float, coded_bytes: int, tokens_per_sec: float) -> None:
        """Show the state of the run: `data_bits` spent on the first `coded_bytes`."""
        total_bytes = (data_bits + self.fixed_bits) / 8
        self.set_postfix_str(
            f"{total_bytes:,.0f} bytes so far, {data_bits / max(coded_bytes, 1):.3f} bits/byte, "
            f"ratio {coded_bytes / total_bytes:.2f}, {tokens_per_sec:,.0f} tokens/s",
            refresh=False,
        )
        self.update(coded_bytes - self.n)
