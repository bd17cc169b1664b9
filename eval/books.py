"""The books of a run, which rank 0 keeps: its fixed terms before the epoch, its live curve, its report after it."""

import json
import sys
from dataclasses import replace
from pathlib import Path

from data.files import write_file
from data.names import pack_names
from data.prepare import PreparedCorpus
from data.streams import publish
from eval.baselines import Baselines, cached_baselines
from eval.begun import refuse_other_run, refuse_other_settings
from eval.code_size import decoder_values, measure_code, reference_machine
from eval.decoder_imports import refuse_late_imports
from eval.description_length import DescriptionLength, side_bits
from eval.provenance import what_was_run
from eval.reference_codes import ReferenceCodes, cached_codes, reference_codes
from eval.report import build_report, write_report
from eval.schema import Report
from eval.tables import terminal_table
from train.command_line import CONFIG_FILE, save_config
from train.metrics import Metrics
from train.ranks import after_rank_0
from train.run import Outcome, Run, Session
from train.run_dir import CODE_FILE, TOKENIZER_FILE


class Books:
    """Every rank calls, in this order, `Books`, `measure`, `follow`; rank 0 alone then calls `close`."""

    def __init__(self, session: Session):
        """Look at the run's directory, before any work. Raises UsageError if the run cannot begin or go on there."""
        self.session, self.config, self.run_dir = session, session.config, Path(session.config.run.dir)
        self.kept = session.place.rank == 0
        after_rank_0(session.place, "preparation", self.refuse_other_run)

    def refuse_other_run(self) -> None:
        # Rank 0 alone looks: by the time that others get here, it may have written there itself.
        if self.kept:
            refuse_other_run(self.config, decoder_values(self.config, None, self.session.extra))

    def measure(self, corpus: PreparedCorpus) -> None:
        """Measure what the number is compared with. Minutes for a large corpus, and cached: now, before other ranks
        wait in a collective."""
        self.corpus, self.manifest = corpus, corpus.manifest
        self.values = decoder_values(self.config, corpus.tokenizer, self.session.extra)
        after_rank_0(self.session.place, "baselines", self.measure_baselines)

    def measure_baselines(self) -> None:
        if not self.kept:
            return
        if self.config.run.resume:
            refuse_other_settings(self.run_dir, self.config, self.values)
        where, sha256 = self.corpus.directory, self.manifest.sha256
        codes = cached_codes(where, sha256, self.corpus.read, self.manifest.bytes)
        self.references: ReferenceCodes = reference_codes(codes, self.manifest.tokens, self.corpus.tokenizer.vocabulary)
        self.baselines: Baselines | None = None
        if self.config.run.baselines:
            self.baselines = cached_baselines(where, sha256, self.corpus.read, self.manifest.bytes, progress=True)

    def follow(self, run: Run, warm_start: bytes = b"") -> Outcome:
        """Run the epoch, and keep its live curve. `warm_start` is what the run begins with, packed."""
        if not self.kept:
            return run.go(None, 0.0, self.manifest.bytes)
        self.open(run, warm_start)
        with refuse_late_imports(self.code.modules, self.config.run.reference_packages):
            return run.go(self.metrics, self.length.total_bits, self.manifest.bytes)

    def open(self, run: Run, warm_start: bytes) -> None:
        """Write what does not change: the terms beside data_bits, and what a resumed run must find."""
        config, place, tokenizer = self.config, self.session.place, self.corpus.tokenizer
        self.run, self.machine = run, reference_machine()
        self.run_as = what_was_run(config, self.session.extra, place.device.type, place.world_size)
        write_file(self.run_dir / "environment.json", json.dumps(self.machine, indent=1).encode())
        write_file(self.run_dir / TOKENIZER_FILE, tokenizer.encoding)
        self.code = measure_code(self.values, config.run.reference_packages)
        if not config.run.resume:
            write_file(self.run_dir / CODE_FILE, self.code.packed)
        # What can be resumed has a configuration, so that is written last.
        save_config(config, self.run_dir / CONFIG_FILE)
        tokenizer_bits = 8 * len(tokenizer.encoding)
        names_bytes = len(pack_names(self.corpus.source.names))
        side = side_bits(
            self.manifest.tokens, place.world_size, warm_start_bytes=len(warm_start), names_bytes=names_bytes
        )
        self.length = DescriptionLength(0.0, self.code.code_bits, tokenizer_bits, side, 8.0 * len(warm_start))
        self.metrics = Metrics(self.run_dir, run.resumed_bytes)
        sizes = self.baselines.sizes if self.baselines else {}
        hparams = {section: self.values[section] for section in ("data", "model", "train", "engine")}
        self.metrics.begin(self.code.code_bits, tokenizer_bits, self.length.side_bits, sizes, hparams)

    def close(self, outcome: Outcome) -> Report:
        """Write the report, and print it."""
        model, cost = self.config.model, self.run.cost
        report = build_report(
            corpus={name: getattr(self.manifest, name) for name in ("name", "bytes", "sha256", "documents", "tokens")},
            model={name: getattr(model, name) for name in ("block", "width", "depth")}
            | {"parameters": cost.parameters, "parameters_non_embedding": cost.parameters_non_embedding},
            description_length=replace(self.length, data_bits=outcome.data_bits),
            coded={"tokens": outcome.coded_tokens, "bytes": outcome.coded_bytes},
            baselines=self.baselines,
            references=self.references,
            cost=outcome.cost,
            code=self.code,
            reference_machine=self.machine,
            run=self.run_as,
        )
        self.metrics.end(dict(report))
        self.metrics.close()
        write_report(self.run_dir, report, self.code.module_bytes)
        publish(terminal_table(report))
        print(
            f"\nThe report is {self.run_dir}/report.html; watch the curves with: tensorboard --logdir {self.run_dir}",
            file=sys.stderr,
        )
        return report
