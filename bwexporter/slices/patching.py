"""A record with `override: true` over the record that it patches.

Turns two records of one name into one, and what of it contradicts itself into faults. Knows: which keys a record gives,
what exceeds what. Does not know: sources, their order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bwexporter.core.lanes import Traffic
from bwexporter.settings import LaneSettings, contradictions
from bwexporter.slices.records import SETTINGS, SliceRecord

_BLAMED: Mapping[str, str] = {"guarantee": "full", "floor": "full", "threshold": "allowance"}
"""What a setting that is too high exceeds."""


def patched(known: SliceRecord, patch: SliceRecord) -> tuple[SliceRecord, list[tuple[str, str]]]:
    """Return a record with the keys that another gives, and what of it contradicts the rest and is left out."""
    normal, normal_faults = _patched_settings(known, patch, Traffic.NORMAL)
    exempt, exempt_faults = _patched_settings(known, patch, Traffic.EXEMPT)
    given, left_out = patch.origins, {key for key, _ in (*normal_faults, *exempt_faults)}
    return replace(
        known,
        slice_id=patch.slice_id if "id" in given else known.slice_id,
        owners=patch.owners if "owners" in given else known.owners,
        labels={**known.labels, **patch.labels},
        devices=patch.devices if "devices" in given else known.devices,
        match=known.match.model_copy(update={key: getattr(patch.match, key) for key in patch.match.model_fields_set}),
        class_handle=patch.class_handle if "class" in given else known.class_handle,
        exempt_class_handle=patch.exempt_class_handle if "exempt_class" in given else known.exempt_class_handle,
        normal=normal,
        exempt=exempt,
        everything_off=patch.everything_off if "everything_off" in given else known.everything_off,
        loans=patch.loans if "loans" in given else known.loans,
        origins={**known.origins, **{key: place for key, place in given.items() if key not in left_out}},
    ), [*normal_faults, *exempt_faults]


def _patched_settings(
    known: SliceRecord, patch: SliceRecord, traffic: Traffic
) -> tuple[LaneSettings, list[tuple[str, str]]]:
    before, new = known.settings(traffic), patch.settings(traffic)
    keys = {key: name for key, name in SETTINGS.items() if f"{traffic.value}.{key}" in patch.origins}
    settings = before.model_copy(update={name: getattr(new, name) for name in keys.values()})
    faults = [(str(fault.path[0]), fault.text) for fault in contradictions(settings)]
    if not faults:
        return settings, []
    # Either of two values that contradict each other may be the patch's; what it says is left out, what ran stays.
    blamed = {_BLAMED.get(key, key) if key not in keys else key for key, _ in faults} & keys.keys()
    settings = settings.model_copy(update={keys[key]: getattr(before, keys[key]) for key in blamed})
    texts = {_BLAMED.get(key, key) if key not in keys else key: text for key, text in faults}
    return settings, [(f"{traffic.value}.{key}", f"{patch.name}: {texts[key]}") for key in sorted(blamed)]
