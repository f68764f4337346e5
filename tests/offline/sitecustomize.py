"""Refuse every connection that would leave this computer.

conftest.py loads this into the tests; through PYTHONPATH every Python that a test starts (notebook
kernels too) loads it on its own.
"""

import errno
import ipaddress
import socket
import sys


def _is_local(host: object) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(str(name).split("%")[0]).is_loopback
    except ValueError:
        return False


def _refuse(event: str, arguments: tuple) -> None:
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        channel, address = arguments
        internet = channel.family in (socket.AF_INET, socket.AF_INET6)
        if internet and address and not _is_local(address[0]):
            raise OSError(errno.ENETUNREACH, f"the tests run without a network: {address[0]}")
    elif event in ("socket.getaddrinfo", "socket.gethostbyname") and not _is_local(arguments[0]):
        raise socket.gaierror(
            socket.EAI_NONAME, f"the tests run without a network: {arguments[0]!r}"
        )


sys.addaudithook(_refuse)
