"""Train a language model over a corpus for exactly one epoch and report the corpus's description length.

deepspeed launch/train.py                                    the embedded corpus, minutes on two CPU cores
deepspeed launch/train.py --data.source FILE --run.dir runs/mine
deepspeed launch/train.py --run.dir runs/mine --run.resume   go on after a kill
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
from launch import entry

entry.begin(__name__)

from train.help import help_text

entry.answer_help(__name__, lambda: help_text(__doc__ or "", {}))
entry.measure_ahead(__name__)

from archive.pins import refuse_unpinned
from archive.warm_start import warm_start
from data.streams import publish_help
from eval.books import Books
from eval.schema import Report
from train.choice import Chooser
from train.command_line import parse_given, read_deepspeed_config
from train.config import Config
from train.engine import disconnect
from train.run import Run, corpus_source, join_ranks, prepare_corpus, resume_remedy


def main(arguments: list[str]) -> int:
    return entry.exit_status(lambda: start(arguments))


def start(arguments: list[str]) -> None:
    with publish_help():
        config, given = parse_given(__doc__ or "", arguments)
    entry.pin(config.engine.portable)
    train(config, stay=False, chooser=Chooser(given))


def train(config: Config, stay: bool = True, chooser: Chooser | None = None) -> Report | None:
    """One epoch over the corpus, from its preparation to its report, which is returned on rank 0.

    Call it from the main thread, which gets the signals, and as often as you like. Several ranks `stay` connected: at
    the end of your program, all of them call train.engine.disconnect. A `chooser` may change fields for the corpus;
    without one, `config` is taken as it is.

    Raises UsageError for what is wrong with `config`, RunFailed or OSError for what goes wrong later, Stopped after a
    signal or run.stop_after_steps.
    """
    refuse_unpinned(config.engine.portable)
    extra = read_deepspeed_config(config.engine.deepspeed_config)
    chooser = chooser or Chooser()
    with join_ranks(config, extra, resume_remedy, chooser) as session:
        books = Books(session, again=stay, choice=chooser.choice)
        corpus = prepare_corpus(session)
        books.measure(corpus)
        warm = warm_start(session, corpus)
        source = corpus_source(session, corpus, {"warm start": warm.sha256} if warm else {})
        with Run(session, corpus.tokenizer, source) as run:
            if warm:
                warm.begin(run, session)
            outcome = books.follow(run, warm.packed if warm else b"")
            report = books.close(outcome) if books.kept else None
    if session.place.world_size == 1 or not stay:
        disconnect()
    return report


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
