from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernel.conftest import CAP_SYS_ADMIN, holds_capability
from tests.kernel.daemon_rig import NOBODY, PROJECT, readable_by_nobody

ROOM = ("unshare", "--user", "--map-root-user", "--net", "--")
PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "kernel")


@pytest.mark.kernel
@pytest.mark.timeout(900)
def test_the_kernel_tests_pass_for_an_unprivileged_user_in_a_user_namespace() -> None:
    """All of this folder where that is who runs them; beside a privileged run, which has run all, the contract."""
    if not holds_capability(CAP_SYS_ADMIN):
        assert_they_pass((*ROOM, sys.executable, *PYTEST, str(Path(__file__).parent)), dict(os.environ))
        return
    with readable_by_nobody() as readable:
        contract = str(readable.folder / "project" / "tests" / "kernel" / "test_contract.py")
        program = (*readable.enter, *NOBODY, *ROOM, readable.python, *PYTEST, contract)
        assert_they_pass(program, readable.environment)


def assert_they_pass(program: tuple[str, ...], environment: dict[str, str]) -> None:
    """Run them, and show what they say where they fail."""
    inside = subprocess.run(program, check=False, capture_output=True, text=True, cwd=PROJECT, env=environment)
    assert inside.returncode == 0, inside.stdout + inside.stderr
    assert "passed" in inside.stdout
