"""The roll as the files alone say it: for `check` and `slices`, which touch nothing.

Turns a configuration into a roll without a device, a state file or a running program. Knows: what only they could tell
(a driver's speed, remembered ids) and what stands in for it. Does not know: what is printed.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import suppress

from bwexporter.cli.users import user_ids
from bwexporter.config import Config
from bwexporter.core.lanes import DeviceFacts
from bwexporter.errors import ConfigError, Problem
from bwexporter.kernel.addresses import addresses_of
from bwexporter.keys import Device, Tree
from bwexporter.roster import Roll, Roster
from bwexporter.slices.adoption import adopted, misplaced_classes
from bwexporter.slices.combining import combine
from bwexporter.slices.gathering import Sources
from bwexporter.slices.listing import read_listing
from bwexporter.slices.tariffs import high_thresholds, unknown_devices
from bwexporter.yamlfile import read_content, survey_yaml

_USUAL_LINE_BYTES_PER_SECOND = 125_000_000


def roll_of(config: Config, *, ask: bool = False) -> Roll:
    """Call the roll; where only the driver says the line rate, the cap or else 1 Gbit/s stands in for it.

    Servers are asked only where that is wanted; otherwise they say what a running program has kept of them.
    """
    facts = {device.name: _facts(device) for device in config.devices}
    roster = Roster(config, facts, dict, time.time, user_ids=user_ids, addresses=addresses_of)
    roll = roster.call(anew=False)
    if not ask:
        return roll
    for server in roster.polled():
        server.poll()
    return roster.call(anew=False)


def problems_of_slices(config: Config, doubtful: Collection[str]) -> tuple[Problem, ...]:
    """Return what is wrong with the slices, where no roll can be called with the configuration.

    That is what is wrong with them by themselves, and beside what of the configuration is not doubtful.
    """
    sources = Sources(config.state, time.time, user_ids, keeps=False)
    records, problems = combine(sources.read(config.sources), {})
    if "devices" not in doubtful:
        problems = (*problems, *unknown_devices(config, records), *misplaced_classes(config, records))
        existing = (device.name for device in config.devices if device.tree is Tree.EXISTING)
        problems = (*problems, *(one for name in existing for one in adopted(config, records, name).problems))
    if "defaults" not in doubtful:
        problems = (*problems, *high_thresholds(config, records))
    return problems


def problems_hidden_in_files(config: Config) -> Iterator[Problem]:
    """Find what is wrong with the records of files that are of no use as YAML, and so keep what they said before."""
    for path in config.slice_files:
        with suppress(ConfigError):
            survey = survey_yaml(read_content(path), file=str(path))
            if survey.problems and survey.document is not None:
                broken = {problem.line for problem in survey.problems}
                found = read_listing(survey.document).problems
                yield from (problem for problem in found if problem.line not in broken)


def _facts(device: Device) -> DeviceFacts:
    line_rate = device.line_rate_bytes_per_second or device.cap_bytes_per_second or _USUAL_LINE_BYTES_PER_SECOND
    return DeviceFacts(device.name, ifindex=0, line_rate_bytes_per_second=line_rate, gso_max_bytes=0)
