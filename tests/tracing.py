"""Run streamser in a separate process and record its connections and the files that it writes."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

_HOOK = """
import json, os, sys
out = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def hook(event, args):
    if event in ("socket.connect", "socket.sendto"):
        os.write(out, (json.dumps(["connect", repr(args[1])]) + "\\n").encode())
    elif event == "socket.getaddrinfo":
        os.write(out, (json.dumps(["resolve", repr(args[0])]) + "\\n").encode())
    elif event == "open" and isinstance(args[0], (str, bytes)):
        mode, flags = args[1] or "", args[2] or 0
        if set(mode) & set("wax+") or flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            os.write(out, (json.dumps(["write", os.fsdecode(args[0])]) + "\\n").encode())
sys.addaudithook(hook)
from streamser.cli import main
sys.exit(main(sys.argv[1:]))
"""
_STRACED = re.compile(r'(?:open|openat|creat)\((?:[^,"]*, )?"(?P<path>[^"]*)"(?P<flags>[^)]*)\)\s+= (?P<result>-?\d+)')
_ADDRESS = re.compile(r'inet_addr\("(?P<v4>[^"]+)"\)|inet_pton\(AF_INET6, "(?P<v6>[^"]+)"')
# Writing to these paths stores no file: devices, shared memory and the descriptions of processes.
_PASSING = ("/dev/", "/proc/", "/sys/", "/memfd:")


@dataclass
class Trace:
    """The recorded connections and files."""

    connections: list[str] = field(default_factory=list)
    """Addresses that are not loopback."""
    written: set[Path] = field(default_factory=set)
    """Files that were opened for writing."""

    def connect(self, address: str) -> None:
        """Record an address, unless it is loopback or a socket in this machine's file system."""
        if not is_local(address):
            self.connections.append(address)

    def write(self, path: str) -> None:
        """Record a file, unless its path is a device or another path that stores no file."""
        if path and not path.startswith(_PASSING):
            self.written.add(Path(path).absolute())


def is_local(address: str) -> bool:
    """Whether an address, as Python or strace writes it, is on this machine.

    >>> [is_local(one) for one in ("('127.0.0.1', 80)", "('::1', 80, 0, 0)", "'/run/pulse/native'", "'localhost'")]
    [True, True, True, True]
    >>> [is_local(one) for one in ("('10.0.0.1', 80)", "('example.org', 80)", "('2001:db8::1', 80, 0, 0)")]
    [False, False, False]
    """
    name = address.strip("(\"'").partition("'")[0]
    if name in ("localhost", "None", "") or name.startswith(("/", "b'", "\\x00")):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def audited(folder: Path, *words: str) -> list[str]:
    """The command that runs streamser under a Python audit hook, which logs into the folder."""
    return [sys.executable, "-c", _HOOK, str(folder / "audit.jsonl"), *words]


def read_audit(folder: Path) -> Trace:
    """Return the connections and files that the audit hook logged."""
    trace = Trace()
    for line in (folder / "audit.jsonl").read_text().splitlines():
        kind, what = json.loads(line)
        if kind == "write":
            trace.write(what)
        else:
            trace.connect(what)
    return trace


def straced(folder: Path, *words: str) -> list[str]:
    """The command that runs streamser under strace, which also traces native code."""
    log = str(folder / "strace.txt")
    calls = "trace=connect,sendto,sendmsg,open,openat,creat"
    return ["strace", "-f", "-qq", "-s", "400", "-o", log, "-e", calls, sys.executable, "-m", "streamser", *words]


def read_strace(folder: Path) -> Trace:
    """Return the connections and files in the log of strace."""
    trace = Trace()
    for line in (folder / "strace.txt").read_text(errors="replace").splitlines():
        if (call := _STRACED.search(line)) and int(call["result"]) >= 0:
            if re.search(r"O_WRONLY|O_RDWR|O_CREAT", call["flags"]) or "creat(" in line.split('"')[0]:
                trace.write(call["path"])
        elif address := _ADDRESS.search(line):
            trace.connect(address["v4"] or address["v6"])
    return trace


@cache
def strace_works() -> bool:
    """Whether this machine has strace and permits tracing."""
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-qq", "-o", os.devnull, "true"], check=False, capture_output=True).returncode == 0
