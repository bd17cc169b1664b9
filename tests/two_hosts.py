"""Two hosts on one machine: each has network, process, mount and host-name namespaces of its own, and an sshd.

    with TwoHosts(folder) as hosts:
        process = hosts.launch("one", "launch/train.py", "--data.source=...")

A host lives as long as its first process, the sshd. That one and the network die with us, however we die. Nothing
outside is touched: the hosts reach nobody but each other, their /run is their own, keys and configuration lie in
`folder`. Needs root and the Debian packages that `missing` names.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from dist import ROOT
from lossy_wire import LossyWire

ADDRESSES = {"one": "10.77.0.1", "two": "10.77.0.2"}
PACKAGES = {"ip": "iproute2", "sshd": "openssh-server", "ssh-keygen": "openssh-client", "pdsh": "pdsh"}
# A command that begins with it dies with us.
TIED = ["setpriv", "--pdeathsig", "KILL"]
# A host that has gone leaves the launcher's ssh waiting for ever, unless ssh asks for signs of life.
KEEPALIVE = "-o ServerAliveInterval=5 -o ServerAliveCountMax=2"

FIRST_PROCESS = """
set -e
hostname {name}
mount -t tmpfs tmpfs /run
mkdir -m 755 /run/sshd
exec {sshd} -D -e -f {folder}/sshd_config
"""
SSHD_CONFIG = """
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
PidFile none
"""
SSH_CONFIG = """
Host one
    HostName {one}
Host two
    HostName {two}
Host *
    User root
    IdentityFile {folder}/user_key
    IdentitiesOnly yes
    HostKeyAlias host
    UserKnownHostsFile {folder}/known_hosts
    GlobalKnownHostsFile none
"""


def missing() -> str:
    """Why this machine cannot have two hosts, and the remedy; empty if it can."""
    if os.geteuid() != 0:
        return "two hosts take root's namespaces: run as root"
    if lacking := [name for name in PACKAGES if not shutil.which(name, path=search_path())]:
        packages = " ".join(PACKAGES[name] for name in lacking)
        return f"two hosts need {', '.join(lacking)}: apt-get install {packages}"
    spaces = ["unshare", "--net", "--pid", "--uts", "--mount", "--fork", "true"]
    tried = subprocess.run(spaces, capture_output=True, text=True, check=False)
    return tried.stderr.strip()


def search_path() -> str:
    """PATH with the places of what only root runs."""
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


class TwoHosts:
    """Hosts `one` and `two`, joined by a veth pair, or by a wire that loses and delays packets if `lossy`."""

    def __init__(self, folder: Path, lossy: bool = False):
        self.folder, self.wire = folder, LossyWire() if lossy else None
        self.networks: dict[str, subprocess.Popen[bytes]] = {}
        self.booted: dict[str, subprocess.Popen[bytes]] = {}
        self.launched: list[subprocess.Popen[str]] = []

    def __enter__(self) -> "TwoHosts":
        try:
            self.write_files()
            self.plug()
            for name in ADDRESSES:
                self.boot(name)
        except BaseException:
            self.tear_down()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.tear_down()

    def write_files(self) -> None:
        """Keys, configuration, hostfile, and what DeepSpeed passes on to the hosts from its user's home."""
        for key in ("host_key", "user_key"):
            generate = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / key)]
            subprocess.run(generate, check=True, capture_output=True)
        public = (self.folder / "host_key.pub").read_text()
        files = {
            "known_hosts": f"host {public}",
            "sshd_config": SSHD_CONFIG.format(folder=self.folder),
            "ssh_config": SSH_CONFIG.format(folder=self.folder, **ADDRESSES),
            "hostfile": "".join(f"{name} slots=1\n" for name in ADDRESSES),
            ".deepspeed_env": f"GLOO_SOCKET_IFNAME=eth0\nHOME={self.folder}\n",
        }
        for name, text in files.items():
            (self.folder / name).write_text(text)

    def plug(self) -> None:
        """Two networks, each held by a process that sleeps, so that they outlive the processes of a killed host."""
        for name in ADDRESSES:
            self.networks[name] = subprocess.Popen([*TIED, "unshare", "--net", "sleep", "infinity"])
            held = Path(f"/proc/{self.networks[name].pid}")
            wait(lambda held=held: (held / "comm").read_text() == "sleep\n", f"the network of {name}")
        one, two = (network.pid for network in self.networks.values())
        if self.wire:
            self.wire.plug([one, two])
        else:
            # Made inside, so that not even for a moment a device is seen outside.
            self.network("one", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", str(two))
        for name, address in ADDRESSES.items():
            self.network(name, "link", "set", "lo", "up")
            self.network(name, "address", "add", f"{address}/24", "dev", "eth0")
            self.network(name, "link", "set", "eth0", "up")

    def network(self, name: str, *words: str) -> None:
        """Run `ip` in the network of a host, which may be dead."""
        enter = ["nsenter", "--net", f"--target={self.networks[name].pid}"]
        subprocess.run([*enter, "ip", *words], check=True, env={**os.environ, "PATH": search_path()})

    def boot(self, name: str) -> None:
        """Start a host, or start it again after its death."""
        script = FIRST_PROCESS.format(name=name, folder=self.folder, sshd=shutil.which("sshd", path=search_path()))
        network = ["nsenter", "--net", f"--target={self.networks[name].pid}"]
        spaces = ["unshare", "--pid", "--uts", "--mount", "--mount-proc", "--fork", "--kill-child"]
        log = self.folder / f"sshd-{name}.log"
        with log.open("ab") as file:
            self.booted[name] = process = subprocess.Popen(
                [*TIED, *network, *spaces, "bash", "-c", script], stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                env={**os.environ, "PATH": search_path()},
            )  # fmt: skip

        def listens() -> bool:
            assert process.poll() is None, log.read_text()
            # In state 0A, LISTEN, on port 22.
            return ":0016 00000000:0000 0A" in Path(f"/proc/{self.networks[name].pid}/net/tcp").read_text()

        wait(listens, f"the sshd of {name}")

    def first(self, name: str) -> int:
        """The process number, outside, of a host's first process; 0 if it is dead."""
        parent = self.booted[name].pid
        try:
            children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        except FileNotFoundError:
            return 0
        return int(children[0]) if children else 0

    def enter(self, name: str) -> list[str]:
        """The command that runs what is written after it on a host."""
        return ["nsenter", "--net", "--pid", "--uts", "--mount", f"--target={self.first(name)}", f"--wd={ROOT}"]

    def inside(self, name: str, *words: str) -> None:
        """Run a command on a host."""
        subprocess.run([*self.enter(name), *words], check=True)

    def launch(self, on: str, program: str, *arguments: str, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        """Start `program` with one rank a host, rank 0 on `one`, by DeepSpeed's launcher on host `on`, over pdsh."""
        set_by_launchers = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        env = {name: value for name, value in os.environ.items() if name not in set_by_launchers} | {
            "HOME": str(self.folder),
            "PATH": search_path(),
            "PDSH_SSH_ARGS_APPEND": f"-F {self.folder}/ssh_config {KEEPALIVE}",
        }
        launcher = [sys.executable, "-m", "deepspeed.launcher.runner", "--hostfile", str(self.folder / "hostfile")]
        # DeepSpeed's check of ssh would take the configuration of whoever runs this.
        launcher += ["--launcher", "pdsh", "--no_ssh_check", "--master_addr", ADDRESSES["one"], *options]
        process = subprocess.Popen(
            [*self.enter(on), *launcher, program, *arguments], env=env, text=True, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.launched.append(process)
        return process

    def ranks(self, name: str) -> list[int]:
        """The process numbers, outside, of the ranks that run on a host, which must be alive."""
        here, found = Path(f"/proc/{self.first(name)}/ns/pid").readlink(), []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                rank = b"\0--local_rank=" in (path / "cmdline").read_bytes()
                if rank and (path / "ns/pid").readlink() == here:
                    found.append(int(path.name))
            except OSError:
                # It has ended.
                continue
        return found

    def kill(self, name: str) -> None:
        """kill -9 everything on a host: the kernel does that when the first process of a namespace dies."""
        first = self.first(name)
        assert first, f"host {name} is dead already"
        os.kill(first, signal.SIGKILL)
        self.booted[name].wait()

    def tear_down(self) -> None:
        for launched in self.launched:
            if launched.poll() is None:
                os.killpg(launched.pid, signal.SIGKILL)
                launched.communicate()
        if self.wire:
            self.wire.unplug()
        for name in self.booted:
            if self.first(name):
                self.kill(name)
        for process in (*self.booted.values(), *self.networks.values()):
            process.kill()
            process.wait()


def wait(condition: Callable[[], bool], what: str, timeout_secs: int = 120) -> None:
    """Wait for `what` to be there. Fails if it takes too long."""
    deadline = time.monotonic() + timeout_secs
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come up"
        time.sleep(0.05)
