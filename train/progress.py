"""The progress bar of an epoch, with the live compressed size."""

import sys
import warnings

with warnings.catch_warnings():
    # In a notebook, a bar of widgets, of which tqdm says that it is new; otherwise one of text.
    warnings.simplefilter("ignore")
    from tqdm.autonotebook import tqdm


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
        """Show the state of the run: `data_bits` spent on the first `coded_bytes`. All numbers are of the total, with
        code, tokenizer and side information, as in the row `total` of the table at the end."""
        total_bits = data_bits + self.fixed_bits
        self.set_postfix_str(
            f"total so far {total_bits / 8:,.0f} bytes, {total_bits / max(coded_bytes, 1):.4f} bits/byte, "
            f"ratio {8 * coded_bytes / total_bits:.2f}, {tokens_per_sec:,.0f} tokens/s",
            refresh=False,
        )
        self.update(coded_bytes - self.n)
