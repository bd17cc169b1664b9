"""The books of a run, which rank 0 keeps: the fixed terms before the epoch, the live curve, the report after it."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from data.documents import folder_name
from data.files import read_json, write_file
from data.names import pack_names
from data.notices import NOTICES
from data.prepare import PreparedCorpus
from data.streams import publish
from eval import decoder_imports
from eval.baselines import cached_baselines
from eval.begun import refuse_other_run, refuse_other_settings
from eval.code_size import charged_config, decoder_values, measure_code, reference_machine, unpack
from eval.description_length import side_bits
from eval.late_imports import refuse_late_imports
from eval.measured import CorpusBytes
from eval.network_code import measure_network
from eval.provenance import describe_run, escape_text
from eval.reference_codes import cached_codes, reference_codes
from eval.report import write_report
from eval.schema import (
    FORMAT,
    Code,
    CodedTotals,
    Corpus,
    CorpusChoice,
    DescriptionLength,
    Model,
    OwnTokenizer,
    Report,
    RunCost,
)
from eval.tables import terminal_table
from eval.token_text import describe_token_files
from train.choice import Choice
from train.command_line import CONFIG_FILE, MAX_CONFIG_BYTES, save_config
from train.metrics import Metrics, write_flat_lines
from train.monitors import read_monitors
from train.ranks import after_rank_0
from train.run import Outcome, Run, Session
from train.run_dir import CHOICE_FILE, CODE_FILE, NOTICES_FILE, TOKENIZER_FILE


class Books:
    """Every rank calls, in this order, `Books`, `measure`, `follow`; rank 0 alone then calls `close`."""

    def __init__(self, session: Session, again: bool = False, choice: Choice | None = None):
        """Look at the run's directory, before any work. Raises UsageError if the run cannot begin or go on there.
        `again`: this process may have more runs, whose code is measured by the same interpreter. `choice` is what was
        chosen for the corpus."""
        self.again, self.choice = again, choice
        self.session, self.config, self.run_dir = session, session.config, Path(session.config.run.dir)
        self.kept = session.place.rank == 0
        self.monitors = read_monitors(session.config.engine.deepspeed_config)
        if self.kept:
            decoder_imports.start_ahead()
        after_rank_0(session.place, "preparation", self.refuse_other_run)

    def refuse_other_run(self) -> None:
        # Rank 0 alone looks: by the time that others get here, it may have written there itself.
        if self.kept:
            self.begun_code = refuse_other_run(self.config, decoder_values(self.config, None, self.session.extra))

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
        corpus, manifest = self.corpus, self.manifest
        measured = CorpusBytes(corpus.directory, manifest.sha256, corpus.read, manifest.bytes)
        self.references = reference_codes(cached_codes(measured), manifest.tokens, corpus.tokenizer.vocabulary)
        compare, files = self.config.run.baselines, corpus.source.tokens
        self.token_files = describe_token_files(corpus, files, self.config.data, compare) if files else None
        self.baselines = cached_baselines(measured, progress=True) if compare else None

    def follow(self, run: Run, warm_start: bytes = b"") -> Outcome:
        """Run the epoch, and keep its live curve. `warm_start` is what the run begins with, packed."""
        if self.run_dir.is_dir():
            NOTICES.write_to(self.run_dir / NOTICES_FILE, self.config.run.verbose)
        if not self.kept:
            return run.go(None, 0.0, self.manifest.bytes)
        self.open(run, warm_start)
        try:
            with refuse_late_imports(self.code.modules, self.config.run.reference_packages):
                return run.go(self.metrics, sum(self.fixed_bits.values()), self.manifest.bytes)
        except BaseException:
            # A logger that stayed open would take the next run of this process for a part of this one.
            self.metrics.close(failed=True)
            raise

    def open(self, run: Run, warm_start: bytes) -> None:
        """Write what does not change: the terms beside data_bits, and what a resumed run must find."""
        config, place, tokenizer = self.config, self.session.place, self.corpus.tokenizer
        self.run, self.machine = run, reference_machine()
        charged_bytes = len(tokenizer.encoding)
        self.uncharged: dict[str, Any] = {}
        if config.run.reference_tokenizer:
            entry = self.manifest.tokenizer
            self.machine["tokenizer"] = f"{escape_text(entry['file'])} (SHA-256 {entry['file_sha256']})"
            charged_bytes, self.uncharged = 0, {"uncharged_bytes": charged_bytes}
        self.run_as = describe_run(config, self.session.extra, place.device.type, place.world_size)
        write_file(self.run_dir / "environment.json", json.dumps(self.machine, indent=1).encode())
        about = Corpus.model_validate(self.manifest, from_attributes=True)
        write_file(self.run_dir / "corpus.json", about.model_dump_json(indent=1).encode())
        write_file(self.run_dir / TOKENIZER_FILE, tokenizer.encoding)
        begun = self.begun_code
        same = begun and unpack(begun.packed)[0] == json.loads(json.dumps(charged_config(self.values)))
        self.code = begun if begun and same else measure_code(self.values, config.run.reference_packages)
        if not self.again:
            decoder_imports.stop_ahead()
        if not config.run.resume:
            write_file(self.run_dir / CODE_FILE, self.code.packed)
            if self.choice:
                write_file(self.run_dir / CHOICE_FILE, json.dumps(asdict(self.choice), indent=1).encode())
        # What can be resumed has a configuration, so that is written last.
        save_config(config, self.run_dir / CONFIG_FILE)
        names_bytes = len(pack_names(self.corpus.source.names))
        side = side_bits(self.manifest.tokens, place.world_size, 1, len(warm_start), names_bytes)
        self.fixed_bits = {"code": self.code.code_bits, "tokenizer": 8.0 * charged_bytes, "side": side}
        self.warm_start = {"warm_start_bits": 8.0 * len(warm_start)} if warm_start else {}
        self.metrics = Metrics(self.run_dir, run.resumed_bytes, self.monitors)
        sizes = self.baselines.sizes if self.baselines else {}
        hparams = {section: self.values[section] for section in ("data", "model", "train", "engine")}
        shared = shares_folder(self.run_dir)
        self.metrics.begin(self.fixed_bits, sizes, hparams, flat=not shared, **self.uncharged)
        if shared and sizes:
            name = f"other codes ({folder_name(self.manifest.name)}, {self.manifest.sha256[:8]})"
            write_flat_lines(self.run_dir.parent / "tensorboard" / name, sizes, self.manifest.bytes)

    def close(self, outcome: Outcome) -> Report:
        """Write the report, and print it."""
        model, cost, terms = self.config.model, self.run.cost, self.fixed_bits | {"data": outcome.data_bits}
        measured: dict[str, Any] = self.baselines.sections("baselines") if self.baselines else {"baselines": {}}
        measured |= self.references.sections("references")
        if self.code.uncharged:
            measured["reference_packages"] = self.code.uncharged
        if model.network:
            measured["network_code"] = measure_network(self.run.learner.model.network)  # type: ignore[arg-type]
        entry = self.manifest.tokenizer
        if entry["kind"] == "file":
            about = {name: entry[name] for name in ("format", "vocabulary", "file_xz_bytes")}
            about |= {"file": escape_text(entry["file"]), "sha256": entry["file_sha256"]}
            measured["tokenizer"] = OwnTokenizer(escaped_bytes=self.manifest.escaped, **about, **self.uncharged)
        if (choice := self.run_dir / CHOICE_FILE).exists():
            measured["choice"] = read_json(choice, TypeAdapter(CorpusChoice), MAX_CONFIG_BYTES)
        if self.token_files:
            measured["token_files"] = self.token_files
        report = Report(
            format=FORMAT,
            corpus=Corpus.model_validate(self.manifest, from_attributes=True),
            model=Model(
                block=model.block,
                width=model.width,
                depth=model.depth,
                parameters=cost.parameters,
                parameters_non_embedding=cost.parameters_non_embedding,
            ),
            description_length=DescriptionLength(
                corpus_bytes=self.manifest.bytes,
                **{f"{name}_bits": bits for name, bits in terms.items()},
                **self.warm_start,
            ),
            coded=CodedTotals(tokens=outcome.coded_tokens, bytes=outcome.coded_bytes),
            **measured,
            cost=RunCost.model_validate(outcome.cost),
            code=Code.model_validate(self.code, from_attributes=True),
            reference_machine=self.machine,
            **self.run_as,
        )
        self.metrics.end(report.values())
        self.metrics.close()
        write_report(self.run_dir, report, self.code.module_bytes)
        publish(terminal_table(report))
        print(
            f"\nThe report is {self.run_dir}/report.html; watch the curves with: tensorboard --logdir {self.run_dir}",
            file=sys.stderr,
        )
        return report


def shares_folder(run_dir: Path) -> bool:
    """Whether there are other runs beside this one, or will be: those of a sweep."""
    others = (path.parent for path in run_dir.parent.glob(f"*/{CODE_FILE}"))
    return (run_dir.parent / "sweep.json").exists() or any(other.name != run_dir.name for other in others)
