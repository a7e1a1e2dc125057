"""Privileges: the one capability that enforcing needs, for this process and what it starts.

Turns a capability that the process may have into one that it has (capabilities(7)): a program file that carries
CAP_NET_ADMIN gives it to its process as permitted only, and to no child. Knows: the system calls. Does not know: what
the capability is used for.
"""

from __future__ import annotations

import ctypes

CAP_NET_ADMIN = 12
_VERSION_3 = 0x20080522
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 47, 2
_EFFECTIVE, _PERMITTED, _INHERITABLE = range(3)  # of the lower half, where this capability stands


def raise_net_admin() -> None:
    """Make CAP_NET_ADMIN effective for this thread and those it starts, and ambient for the programs that they start.

    A process that may not have it is left as it is.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    bit = 1 << CAP_NET_ADMIN
    if libc.capget(header, sets) or not sets[_PERMITTED] & bit:
        return
    sets[_EFFECTIVE] |= bit
    sets[_INHERITABLE] |= bit
    if not libc.capset(header, sets):
        libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, CAP_NET_ADMIN, 0, 0)
