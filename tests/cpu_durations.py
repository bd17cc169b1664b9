"""`--cpu_durations N`: the N tests that take most CPU time, and all files; 0 is all tests.

Wall times say little on a busy machine. Counted are pytest's own process, programs that a test starts and that have
ended, and the servers of tests/fork_server.py with what they forked. A fixture counts for the test that asks first.
"""

import os
import resource
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fork_program import SERVER

# User, system and wall seconds.
Secs = tuple[float, float, float]


class CpuDurations:
    last: Secs = (0.0, 0.0, 0.0)

    def __init__(self, count: int):
        self.count = count

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self) -> None:
        self.last = read_clocks()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Iterator[None]:
        report: Any = yield
        now = read_clocks()
        # What is set on a report comes back from the workers of pytest-xdist, too.
        report.secs = [now[place] - self.last[place] for place in range(3)]
        self.last = now
        return report

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        tests: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
        files: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
        for report in (report for reports in terminalreporter.stats.values() for report in reports):
            for table, name in ((tests, getattr(report, "nodeid", "")), (files, "total")):
                table[name] = [a + b for a, b in zip(table[name], getattr(report, "secs", (0, 0, 0)), strict=True)]
        for name, secs in tests.items():
            file = name.split("::")[0]
            files[file] = [a + b for a, b in zip(files[file], secs, strict=True)]
        for title, table, count in (("tests", tests, self.count), ("files", files, 0)):
            terminalreporter.section(f"CPU seconds of {title}: user, system; wall")
            rows = sorted(table.items(), key=lambda row: -row[1][0] - row[1][1])
            for name, (user, system, wall) in rows[: count or None]:
                terminalreporter.write_line(f"{user:8.2f} {system:7.2f} {wall:8.2f}  {name}")


def read_clocks() -> Secs:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    user, system = sum(usage.ru_utime for usage in used), sum(usage.ru_stime for usage in used)
    ticks = os.sysconf("SC_CLK_TCK")
    for pid in SERVER.pids():
        # Its own two, and those of the children that it has waited for.
        fields = [int(field) for field in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]]
        user, system = user + (fields[0] + fields[2]) / ticks, system + (fields[1] + fields[3]) / ticks
    return user, system, time.monotonic()
