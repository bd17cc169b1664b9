"""Draw text from a finished run: sampling is decoding random bits.

    python launch/evaluate.py sample runs/mine --prompt "In the beginning" --bytes 300
    python launch/evaluate.py sample runs/mine --prompt_file FILE --temperature 0.8 --seed 7 --count 4

An entropy decoder turns bits into text by a model's probabilities. Fed with an archive it gives the corpus back; fed
with random bits it gives a sample, for a symbol of probability p has a share p of all bit strings, and takes -log2 p
bits. So nothing is needed except the decoder (archive/coder.py) and the frozen model in its stepwise form, and encoding
the sample with the model gives the random bits back.

The drawn text goes to stdout as it is, bytes that are no UTF-8 included and without the prompt; with --count above 1,
a line feed ends each sample. All else goes to stderr. A sample ends with the document. Exit status 2: bad arguments.
"""

from dataclasses import dataclass
from pathlib import Path

from studies.common import argument, option


@dataclass
class Sample:
    """Draw text from a run, by decoding random bits."""

    run: Path = argument("run.dir of a finished run", metavar="RUN")
    prompt: str = option("what stands before the sample (default: nothing)", "", metavar="TEXT", group="prompt")
    prompt_file: Path | None = option("the same, from a file of any bytes", None, metavar="FILE", group="prompt")
    temperature: float = option(
        "p^(1/T) in place of p: below 1 more likely text, above 1 more surprising; 1 is the model's own (default)",
        1.0, metavar="T",
    )  # fmt: skip
    seed: int = option("0 or more, of the random bits; same seed, same sample (default: 0)", 0)
    bytes: int = option("end with the token that makes N bytes full (default: 500)", 500, metavar="N", group="length")
    tokens: int | None = option("end after N tokens instead", None, metavar="N", group="length")
    count: int = option("samples, drawn side by side (default: 1)", 1, metavar="K")
