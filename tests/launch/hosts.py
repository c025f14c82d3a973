"""Two hosts on one machine: network namespaces with a cable between them, each with its own name."""

import contextlib
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

NETWORK = "10.78.0"


class NoHostsError(Exception):
    """This machine does not allow network namespaces; the message says why."""


@dataclass
class Host:
    """One of the two."""

    name: str
    address: str
    number: int
    """Of the process that holds its namespaces."""
    started: list["subprocess.Popen[str]"] = field(default_factory=list)

    def start(
        self, words: Sequence[str], environment: Mapping[str, str], cwd: Path
    ) -> "subprocess.Popen[str]":
        """Start a command on this host; it is killed when the host goes."""
        pipe, words = subprocess.PIPE, self._inside(words, cwd)
        process = subprocess.Popen(words, env=dict(environment), cwd=cwd, stdout=pipe, stderr=pipe, text=True)
        self.started.append(process)
        return process

    def unplug(self) -> None:
        """Take the cable out: what is sent is lost, and nobody is told."""
        subprocess.run(self._inside(["ip", "link", "set", "eth0", "down"], Path.cwd()), check=True)

    def _inside(self, words: Sequence[str], cwd: Path) -> list[str]:
        enter = ["nsenter", "-t", str(self.number), "--net", "--uts", "--mount", f"--wd={cwd.resolve()}"]
        return [*enter, "--", *words]


@contextlib.contextmanager
def two_hosts(folder: Path) -> Iterator[list[Host]]:
    """Two hosts that reach each other by name and address, for a block.

    Raises:
        NoHostsError: this takes root with CAP_NET_ADMIN and CAP_SYS_ADMIN, and the ip command.
    """
    names = ["host0", "host1"]
    addresses = [f"{NETWORK}.1", f"{NETWORK}.2"]
    lines = [f"{address} {name}" for address, name in zip(addresses, names, strict=True)]
    (folder / "hosts").write_text("\n".join(["127.0.0.1 localhost", *lines]) + "\n")
    with contextlib.ExitStack() as ending:
        hosts = []
        for name, address in zip(names, addresses, strict=True):
            setup = f"mount --bind '{folder}/hosts' /etc/hosts && hostname {name} && ip link set lo up"
            words = ["unshare", "--net", "--uts", "--mount", "bash", "-c", f"{setup} && echo up && exec cat"]
            try:
                holder = subprocess.Popen(
                    words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
                )
            except FileNotFoundError as error:
                raise NoHostsError(f"there is no {error.filename} here") from None
            ending.enter_context(holder)
            ending.callback(holder.kill)
            assert holder.stdout is not None
            assert holder.stderr is not None
            if not holder.stdout.readline():
                raise NoHostsError(holder.stderr.read().strip())
            hosts.append(Host(name, address, holder.pid))
        cable = ["ip", "link", "add", "eth0", "netns", str(hosts[0].number)]
        cable += ["type", "veth", "peer", "name", "eth0", "netns", str(hosts[1].number)]
        made = subprocess.run(cable, capture_output=True, text=True, check=False)
        if made.returncode:
            raise NoHostsError(made.stderr.strip())
        for host in hosts:
            plug = f"ip address add {host.address}/24 dev eth0 && ip link set eth0 up"
            subprocess.run(host._inside(["bash", "-c", plug], folder), check=True)
        try:
            yield hosts
        finally:
            for process in [*hosts[0].started, *hosts[1].started]:
                process.kill()
                process.communicate()
