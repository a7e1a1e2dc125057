"""The users of this node.

Turns the user database into ids by name. Knows: pwd. Does not know: who asks.
"""

from __future__ import annotations

import pwd


def user_ids() -> dict[str, int]:
    """Return the users of this node."""
    return {user.pw_name: user.pw_uid for user in pwd.getpwall()}
