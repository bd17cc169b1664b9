"""The machine that an archive needs: what its header says of it, and whether this is such a machine."""

import sys
from collections.abc import Iterable, Mapping

from data.errors import UsageError
from eval.code_size import CodeSize, installed_version, reference_machine
from train.launched import is_rank_0

# The key, in a header's machine, of the packages that the run declared.
DECLARED = "declared"
# That of the tokenizer that the run declared: archive/reference_tokenizer.py.
TOKENIZER = "tokenizer"


def machine_packages(code: CodeSize, declared: Iterable[str]) -> dict[str, str]:
    """What an archive's header says of the packages that its decoder needs beside the reference machine."""
    return code.uncharged | ({DECLARED: " ".join(declared)} if declared else {})


def declared_packages(machine: Mapping[str, str]) -> list[str]:
    """The packages that the run of an archive declared, from what its header says of its machine."""
    return machine.get(DECLARED, "").split()


def refuse_other_machine(header: dict) -> None:
    """Raise UsageError unless PyTorch and the processor are those that wrote the archive."""
    machine = reference_machine()
    others = sorted(header["machine"].keys() - machine.keys() - {DECLARED, TOKENIZER})
    packages = ("deepspeed", "numpy", "python", *others)
    for name in ("torch", "system", "processor", *packages):
        value, found = header["machine"].get(name, "unknown"), machine.get(name) or installed_version(name)
        if value != found and name in ("torch", "system", "processor"):
            remedy = f"pip install torch=={value}" if name == "torch" else "such a machine is needed"
            raise UsageError(f"the archive was written with {name} {value} and here it is {found}: {remedy}")
        if value != found and is_rank_0():
            print(f"onepass: {name} was {value} and is {found} here; that may matter", file=sys.stderr)
