"""The users and groups of this node.

Turns the databases of users and groups into ids by name. Knows: pwd, grp. Does not know: who asks.
"""

from __future__ import annotations

import grp
import pwd

from bwexporter.config import Config
from bwexporter.errors import ConfigError, Problem


def user_ids() -> dict[str, int]:
    """Return the users of this node."""
    return {user.pw_name: user.pw_uid for user in pwd.getpwall()}


def control_group_id(config: Config) -> int | None:
    """Return the group that may give orders, None where none is named; ConfigError where this node has none such."""
    group = config.control_group
    try:
        return None if group is None else grp.getgrnam(group).gr_gid
    except KeyError:
        problem = Problem(str(config.path), 0, "control.group", f"there is no group {group!r} on this node")
        raise ConfigError([problem]) from None
