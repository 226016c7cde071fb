"""Which process this is, and whether another one is gone.

A lease tells that an owner of runs is gone, but only when it is over. Where the owner was a process of this machine one
can know at once: after a crash the next start needn't wait. A process is told by its id and, as ids are used again, by
when it started; and only to one that sees the same processes (the same host, boot and PID namespace: two containers may
share a store). Where any of this can't be known, nobody counts as gone. Sources: proc(5), pid_namespaces(7).
"""

import hashlib
import os
import socket
import uuid
from pathlib import Path

__all__ = ["is_gone", "owner_name"]

GONE = frozenset({"Z", "X", "x"})
"""States of a process that has ended and whose parent hasn't asked how."""


def owner_name() -> str:
    """A name for an owner of runs in this process; no other has it."""
    pid = os.getpid()
    return f"{socket.gethostname()}:{pid}:{_space()}:{_started(pid) or ''}:{uuid.uuid4().hex[:8]}"


def is_gone(owner: str) -> bool:
    """Whether the process of an owner is known to have ended."""
    parts = owner.split(":")
    if len(parts) != 5 or not parts[1].isdecimal():
        return False
    host, pid, space, started, _ = parts
    here = _space()
    if host != socket.gethostname() or not here or space != here or not started:
        return False
    return _started(int(pid)) != started


def _started(pid: int) -> str | None:
    """When a process started, in clock ticks since boot; ``None`` where there is none (any more)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The second field is the program's name in parentheses, and may have any character in it.
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in GONE or len(fields) < 19 else fields[18]


def _space() -> str:
    """Tells this boot of this machine, and the processes that can be seen from here; empty where that isn't known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_bytes()
        seen = Path("/proc/self/ns/pid").readlink()
    except OSError:
        return ""
    return hashlib.blake2b(boot + bytes(seen), digest_size=4).hexdigest()
