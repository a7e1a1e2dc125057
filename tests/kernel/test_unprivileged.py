from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernel.conftest import CAP_SYS_ADMIN, holds_capability

ROOM = ["unshare", "--user", "--map-root-user", "--net", "--"]


@pytest.mark.kernel
@pytest.mark.timeout(600)
def test_an_unprivileged_user_can_run_the_kernel_tests_in_a_user_namespace() -> None:
    """The tests of this folder pass in a process started by unshare; a privileged user has run them already."""
    if holds_capability(CAP_SYS_ADMIN):
        pytest.skip("run as they are: new network namespaces may be entered here")
    if subprocess.run([*ROOM, "true"], check=False, capture_output=True).returncode:
        pytest.skip("user namespaces are not allowed here")
    here = Path(__file__).parent
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "kernel", str(here)]
    inside = subprocess.run(
        [*ROOM, *tests], check=False, capture_output=True, text=True, cwd=here.parent.parent, env=os.environ
    )
    assert inside.returncode == 0, inside.stdout + inside.stderr
