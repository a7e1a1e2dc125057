"""Install bwexporter on fresh systems in each way that the documentation tells, and see it work under the real systemd.

    python -m tests.install [--suite bookworm] [--way pip] ...

Turns a suite and a way into a running service, or a sentence that says what did not work; exit 1 then. Knows: what is
tried, in which order, how long it took. Does not know: how a system is made, what is done there, what is looked at.
Needs root and debootstrap, and some minutes.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.install import compose, first_screen, looks, packages, states
from tests.install.image import Image
from tests.install.tree import Booted, Failed, Tree, run_here, say
from tests.install.ways import CONFIG, SLICES, WAYS

SUITES = ("bookworm", "trixie")


def main() -> int:
    """Try the wanted ways on the wanted suites."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", action="append", choices=SUITES)
    parser.add_argument("--way", action="append", choices=(*WAYS, *OTHERS))
    given = parser.parse_args()
    if os.geteuid():
        say("this makes systems and boots them, and so needs root")
        return 2
    wanted = [(suite, way) for suite in given.suite or SUITES for way in given.way or (*WAYS, *OTHERS)]
    failed = 0
    with tempfile.TemporaryDirectory(prefix="bwexporter-install-") as name:
        for suite, way in wanted:
            folder = Path(name, way)
            folder.mkdir(exist_ok=True)
            began = time.monotonic()
            try:
                OTHERS[way](suite, folder) if way in OTHERS else try_way(suite, way, folder)
            except Failed as error:
                failed += 1
                say(f"FAILED {suite} {way}: {error}")
            else:
                say(f"ok {suite} {way} {time.monotonic() - began:.0f} s")
            finally:
                run_here(["rm", "-rf", "--one-file-system", str(folder)])
    print(f"{len(wanted) - failed} passed, {failed} failed")  # noqa: T201
    return 1 if failed else 0


def try_way(suite: str, way: str, folder: Path) -> None:
    """Install it in one way, and see it work under systemd."""
    tree = Tree(suite, folder)
    WAYS[way](tree)
    with Booted(tree) as booted:
        looks.see_it_work(booted)
        if way == "deb":
            packages.see_an_upgrade(booted)
        looks.see_that_no_byte_is_lost(booted)
        states.see_the_first_schema(booted, tree)
        states.see_a_downgrade_refused(booted)
        if way == "deb":
            packages.see_it_purged(booted)


def try_image(suite: str, folder: Path) -> None:
    """Build the container image, and see it work: alone, as Kubernetes runs it, and with all of compose beside it."""
    image = Image(suite, folder)
    try:
        say(f"{suite}: the image has {image.megabytes} MB, {image.base_megabytes} of them its base's")
        image.see_it_work(folder / "alone", CONFIG, SLICES % "10mbit")
        image.see_it_work_in_a_pod(folder / "pod")
        compose.see_it_work(folder, image.driver)
    finally:
        image.close()


OTHERS: Mapping[str, Callable[[str, Path], None]] = {"image": try_image, "readme": first_screen.see_it_done}

if __name__ == "__main__":
    sys.exit(main())
