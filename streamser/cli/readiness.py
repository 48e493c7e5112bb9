"""Report to systemd that a service is ready, or that it stops (`Type=notify`)."""

from __future__ import annotations

import logging
import os
import socket

__all__ = ["NOTIFY_VARIABLE", "READY", "STOPPING", "notify"]

logger = logging.getLogger(__name__)

NOTIFY_VARIABLE = "NOTIFY_SOCKET"
"""systemd sets this variable to its socket's address; a leading "@" stands for the zero byte of an abstract address."""

READY = "READY=1"
STOPPING = "STOPPING=1"


def notify(state: str) -> None:
    """Send a state of sd_notify(3) to the service manager that started this process; without one, do nothing."""
    address = os.environ.get(NOTIFY_VARIABLE)
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.sendto(state.encode(), address)
    except (AttributeError, OSError, ValueError) as error:  # the system has no such sockets, or the manager has ended
        logger.warning("the service manager could not be notified (%s): %s", state, error)
