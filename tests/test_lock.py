"""One bwexporter to a device, and one to the classifier."""

import subprocess
import sys

import pytest

from bwexporter.errors import DeviceRefused
from bwexporter.lock import hold_classifier, hold_device

HOLD = "from bwexporter.lock import hold_device; held = hold_device(991); print('held', flush=True); input()"


def test_a_second_holder_of_a_device_is_refused_with_its_index() -> None:
    with hold_device(990), pytest.raises(DeviceRefused, match=r"another bwexporter runs .*interface index 990"):
        hold_device(990)


def test_devices_are_held_apart_and_can_be_held_again_once_given_free() -> None:
    with hold_device(990), hold_device(991):
        pass
    with hold_device(990):
        pass


def test_the_classifier_is_held_apart_from_devices() -> None:
    told = "another bwexporter sorts the packets of this network namespace"
    with hold_device(990), hold_classifier(), pytest.raises(DeviceRefused, match=told):
        hold_classifier()
    with hold_classifier():
        pass


def test_a_killed_holder_leaves_the_device_free() -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(DeviceRefused):
            hold_device(991)
        child.kill()
    with hold_device(991):
        pass
