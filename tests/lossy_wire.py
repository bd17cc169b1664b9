"""A wire between two network namespaces that loses and delays packets, as `tc netem` does where the kernel has it.

Each end is a TUN device; a thread of ours carries what is written to one over to the other.
"""

import contextlib
import ctypes
import fcntl
import heapq
import os
import random
import select
import struct
import threading
import time

CLONE_NEWNET = 0x40000000
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000


def missing() -> str:
    """Why this machine cannot have such a wire, and the remedy; empty if it can."""
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as error:
        return f"a wire that loses packets takes /dev/net/tun ({error.strerror}): modprobe tun"
    return ""


class LossyWire:
    """`loss` is the part of packets that is lost, each way; `delay_secs` the time that the others take."""

    def __init__(self, loss: float = 0.0, delay_secs: float = 0.0):
        self.loss, self.delay_secs = loss, delay_secs
        self.lost = 0
        self.ends: list[int] = []
        self.stopped = threading.Event()
        self.carrier = threading.Thread(target=self.carry, daemon=True)

    def plug(self, processes: list[int]) -> None:
        """Put a device `eth0` into the network namespace of each of two processes, and begin."""
        self.ends = [device_in(process) for process in processes]
        self.carrier.start()

    def unplug(self) -> None:
        """End. The devices go, too."""
        self.stopped.set()
        if self.ends:
            self.carrier.join()
        for end in self.ends:
            os.close(end)

    def carry(self) -> None:
        # What is on its way: when it arrives, a number that keeps the order of arrivals, where to, what.
        flying: list[tuple[float, int, int, bytes]] = []
        chance, packets = random.Random(0), 0
        while not self.stopped.is_set():
            readable, _, _ = select.select(self.ends, [], [], 0.001 if flying else 0.05)
            for end in readable:
                packet = os.read(end, 65_536)
                packets += 1
                if chance.random() < self.loss:
                    self.lost += 1
                else:
                    other = self.ends[1 - self.ends.index(end)]
                    heapq.heappush(flying, (time.monotonic() + self.delay_secs, packets, other, packet))
            while flying and flying[0][0] <= time.monotonic():
                _, _, other, packet = heapq.heappop(flying)
                # A device that is down takes nothing.
                with contextlib.suppress(OSError):
                    os.write(other, packet)


def device_in(process: int) -> int:
    """A new TUN device `eth0` in the network namespace of `process`: the descriptor of its other side."""
    opened = []

    def work() -> None:
        # A thread changes its namespace alone, and this one ends here.
        with open(f"/proc/{process}/ns/net") as namespace:  # noqa: PTH123
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        end = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH22x", b"eth0", IFF_TUN | IFF_NO_PI))
        opened.append(end)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return opened[0]
