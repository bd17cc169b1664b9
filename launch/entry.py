"""What all entry points share: how a program begins, how arguments are refused, and its exit status."""

import argparse
import atexit
import errno
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from archive.pins import PINS, pinned
from data.errors import RunFailed, Stopped, UsageError
from data.notices import NOTICES
from data.streams import STREAMS, publish
from eval import decoder_imports
from train.launched import is_rank_0, keep_memory, read_rank
from train.options import did_you_mean

# What argparse would name by Python's types.
WANTED: dict[Any, str] = {int: "a whole number", float: "a number"}
# What the environment has to say before PyTorch is loaded, unless it says something else (docs/performance.md). Threads
# that wait spin for long by default, which takes the core from the very thread that they wait for as soon as anything
# else runs on the machine. And tables of counts are read at random places, which is faster in pages of 2 MiB.
FOR_TORCH = {"GOMP_SPINCOUNT": "5000", "THP_MEM_ALLOC_ENABLE": "1"}


def begin(module: str) -> None:
    """The first statement of an entry point, before it imports anything that may print. `module` is its __name__:
    standard output is separated only in a process that it is the program of. Other libraries' notices are kept: for the
    run directory if the program has one, and to be printed if it fails before or without."""
    for name, value in FOR_TORCH.items():
        os.environ.setdefault(name, value)
    keep_memory()
    if module == "__main__":
        STREAMS.separate()
        NOTICES.collect()


def answer_help(module: str, text: Callable[[], str]) -> None:
    """If the program `module` is asked for its help, print `text()` and leave: before it imports what takes seconds."""
    if module == "__main__" and {"-h", "--help"} & set(sys.argv[1:]):
        sys.exit(exit_status(lambda: publish(text())))


def measure_ahead(module: str) -> None:
    """In the program `module`, which will measure its decoder's code, begin with that: it takes as long as importing
    PyTorch does here, and happens beside it."""
    if module == "__main__" and is_rank_0() and "--print_config" not in sys.argv:
        decoder_imports.start_ahead()


def restart(environment: dict[str, str]) -> NoReturn:
    """Start this program again, with more in its environment and with its own standard output."""
    os.environ.update(environment)
    if STREAMS.published:
        os.dup2(STREAMS.published.fileno(), 1)
    os.execv(sys.executable, [sys.executable, *sys.argv])


def pin(portable: bool) -> None:
    """Start again with the instruction sets pinned, if they are to be and are not: PyTorch looks when it is loaded."""
    if portable and not pinned():
        restart(PINS)


def exit_status(work: Callable[[], int | None]) -> int:
    """Run `work()`, which parses its arguments too, and return the exit status: what it returns or 0, 1 it failed,
    2 bad arguments, 128 + signal after a stop.

    Errors of our own, and of the system, become one line on stderr. Anything else is a bug and is raised.
    """
    try:
        if STREAMS.closed:
            raise UsageError("standard output is closed, and what is printed would be lost. Redirect it: > /dev/null")
        read_rank()
        return unwritten(work() or 0)
    except SystemExit as leaving:  # as parsers do after --help
        if isinstance(leaving.code, str):
            raise
        return unwritten(leaving.code or 0)
    except (RunFailed, OSError, UsageError) as error:
        if not isinstance(error, UsageError):
            NOTICES.release()
        complain(error)
        return keep_status(2 if isinstance(error, UsageError) else 1)
    except Stopped as stop:
        if is_rank_0():
            print(f"onepass: {stop}", file=sys.stderr)
        return keep_status(stop.status)
    except KeyboardInterrupt:
        if is_rank_0():
            print("onepass: interrupted", file=sys.stderr)
        return 130
    except Exception:
        NOTICES.release()
        raise


def keep_status(status: int) -> int:
    """Make sure that a rank which did not come to its end exits with `status`. It is still connected to the others, and
    PyTorch sometimes aborts a process that Python takes apart in this state. So Python does not."""
    distributed = sys.modules.get("torch.distributed")
    if distributed and distributed.is_initialized() and distributed.get_world_size() > 1:
        # What is registered last runs first.
        atexit.register(os._exit, status)
    return status


def unwritten(status: int) -> int:
    """The exit status after all work. A closed pipe asks for no more output; other errors of writing are reported."""
    error = STREAMS.outlet and STREAMS.outlet.error
    if not error or error.errno == errno.EPIPE:
        return status
    print(f"onepass: standard output could not be written: {error.strerror}. All files are complete", file=sys.stderr)
    return status or 1


def complain(error: Exception) -> None:
    """One line on stderr. Rank 0 says what is wrong, and its exit status is the one that a launcher should see first.
    Another host adds a line, because it may lack what rank 0's has; and a rank that lost its peers may be the only one
    left to say so."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if is_rank_0() or isinstance(error, ConnectionError):
        print(f"onepass: {text}", file=sys.stderr)
        return
    time.sleep(3)
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"onepass: rank {os.environ['RANK']} on {socket.gethostname()}: {text}", file=sys.stderr)


def meant(word: str, known: Iterable[str]) -> str:
    """What to say after a `word` that is not one of those `known`: the closest of them, if one is close."""
    return did_you_mean(word, known).removeprefix(". ") or "See --help"


class Parser(argparse.ArgumentParser):
    """Refuses with a UsageError of one line that says what was meant, and publishes its help.

    Of a parser that is not `alone`, other parsers take what it does not know.
    """

    def __init__(self, alone: bool = True, **settings: Any):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **settings)
        self.alone = alone

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message.removeprefix('argument ')}. See --help")

    def print_help(self, file: Any = None) -> None:
        publish(self.format_help().rstrip("\n"))

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        args = sys.argv[1:] if args is None else list(args)
        # Before argparse looks: it would rather miss the option that was misspelled.
        if self.alone and not self._subparsers:
            options = [arg.split("=")[0] for arg in args[: args.index("--") if "--" in args else None]]
            for name in options:
                if name.startswith("--") and " " not in name and name not in self._option_string_actions:
                    raise UsageError(f"unknown option {name}. {meant(name, self.options())}")
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown and self.alone:
            raise UsageError(f"unknown argument {unknown[0]!r}. See --help")
        return parsed, unknown

    def options(self) -> list[str]:
        """The options that --help shows."""
        return [s for s, action in self._option_string_actions.items() if action.help != argparse.SUPPRESS]

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            name = "/".join(action.option_strings) or action.dest
            raise UsageError(f"{name} {value}: it must be one of {', '.join(known)}. {meant(str(value), known)}")

    def _get_value(self, action: argparse.Action, text: str) -> Any:
        name, kind = "/".join(action.option_strings) or action.metavar or action.dest, action.type
        try:
            return kind(text) if callable(kind) else text
        except UsageError as error:
            raise UsageError(f"{name} {text}: {error}") from None
        except ValueError:
            if kind not in WANTED:
                raise
            raise UsageError(f"{name} {text}: give {WANTED[kind]}") from None


def refuse_owned(arguments: Sequence[str], owned: dict[str, str], command: str) -> None:
    """Raise UsageError if options of launch/train.py are given that `command` sets itself. `owned` says for each what
    to do instead. A --config file may hold them: its values give way."""
    options = [argument for argument in arguments if argument.startswith("--")]
    given = {option.split("=")[0].removeprefix("--").removesuffix("+") for option in options}
    for name, remedy in owned.items():
        if name in given:
            raise UsageError(f"--{name} has no effect in {command}: {remedy}")
        section = name.split(".")[0]
        if section in given:
            raise UsageError(f"--{section} may set {name}, which has no effect in {command}: give fields one by one")
