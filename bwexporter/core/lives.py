"""Lives of kernel counters: what each counter gained since it was last seen, over the ends of its lives.

Turns the counters of a ledger and a snapshot into gains and the counters as seen now. Knows: how a counter that
started anew is told from one that went on, and what a dead life had counted. Does not know: periods, policy, the clock.

Theory of operation
-------------------
A *life* of a counter is the time from the creation of a class to its deletion. Within a life the gain is `now - last`;
the first reading of another life counts whole, since the account has seen nothing of it. What a dead life had counted
after the last look is known from

1. the notification of its end, which carries the final counters: exact;
2. else the inner class above it, which grew by what its leaves no longer show: shared out among the lanes that lost a
   life there, exact when it is one;
3. else, for a root queue that was deleted whole, the queue's own final sum, shared out by what each lane sent lately.

A life has ended when: the boot id or the interface's index differs; a notification says so; bytes or packets fell; or,
where notifications may have been lost, the leaf queue has another handle than the one we gave it. The last of these is
checked against the inner class: somebody may have replaced the leaf queue of a class that lives on, and then the inner
class grew by less than the readings would say. A class that somebody else made has no leaf queue of ours: there the
inner class alone tells, by having grown by more than the readings would say. A class that is absent from a dump beside
which nothing came or went is gone; in any other dump absence says nothing, and until it is seen again its inner class
keeps what may be its bytes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from bwexporter.core.lanes import B1, I8, Changes, Counters, Counts, Endings, Ledger, Outcomes, Snapshot
from bwexporter.core.places import Places, find, is_among, placed

WRAP = 1 << 32  # drops and overlimits are 32-bit in the kernel

_PASSING_BYTES = 1_000_000
"""What may pass while a dump runs although hardly anything passed before it: 10 Gbit/s for most of a millisecond."""


class Gains(NamedTuple):
    """What a look found; columns are rows of the ledger's counters."""

    counters: Counters  # as seen now
    gained: I8  # 4 x rows: bytes, packets, drops, overlimits
    restarted: B1  # began another life, or ended, since the last look
    tree_ended: bool
    parent_handle: I8  # inner classes, as witnesses of the next look
    parent_sent_bytes: I8
    tree_sent_bytes: int  # the root queue's, as a witness too


class _Sight(NamedTuple):
    """The classes of the counters in a dump, in the counters' order; zeros where absent."""

    places: Places
    present: B1
    reading: I8  # 4 x rows
    leaf: I8
    parent: I8


def gains(ledger: Ledger, snapshot: Snapshot, *, same_device: bool, places: Places | None = None) -> Gains:
    """Return what every counter gained.

    `same_device` is false after a reboot or under another interface index. `places` are those of the counters' classes
    in the snapshot, where they are known already.
    """
    counters = ledger.counters
    places = places or placed(snapshot.classes, counters.handle)
    last, sight = _matrix(counters), _sight(counters, snapshot, places)
    increase = _increase(sight.reading, last)
    tree_ended = bool(snapshot.tree_endings_bytes)
    if same_device and not tree_ended and _all_went_on(counters, snapshot, places, increase):
        gained, restarted = increase, np.zeros(len(counters), bool)
        seen = _moved_on(counters, sight, increase)
    else:
        gained, restarted, seen = _over_ends(ledger, snapshot, sight, last, same_device=same_device)
    parents, tree_sent = _witnesses(ledger, snapshot, sight, gained[0])
    if same_device and not tree_ended:
        tree_sent = _with_passing(tree_sent, ledger.tree_sent_bytes, int(gained[0].sum()))
    return Gains(seen, gained, restarted, tree_ended, *parents, tree_sent)


def _all_went_on(counters: Counters, snapshot: Snapshot, places: Places, increase: I8) -> bool:
    """Say whether every life certainly went on, as it does at most looks: then nothing else has to be asked."""
    heard_of_all = snapshot.watched_since_last_look and not len(snapshot.endings)
    if not (heard_of_all and places.whole):
        return False
    return bool(counters.alive.all()) and not counters.unheard.any() and int(increase[:2].min(initial=0)) >= 0


def _moved_on(counters: Counters, sight: _Sight, increase: I8) -> Counters:
    """Return the counters as seen now of lives that all went on; a column in which nothing moved is the very same."""
    before = (counters.sent_bytes, counters.sent_packets, counters.dropped_packets, counters.overlimits)
    counts = [
        now if gained.any() else known for known, now, gained in zip(before, sight.reading, increase, strict=True)
    ]
    leaf = counters.leaf if np.array_equal(counters.leaf, sight.leaf) else sight.leaf
    return Counters(counters.handle, sight.parent, counters.account, counters.alive, counters.unheard, leaf, *counts)


def _over_ends(
    ledger: Ledger, snapshot: Snapshot, sight: _Sight, last: I8, *, same_device: bool
) -> tuple[I8, B1, Counters]:
    """Return what was gained, which counters began another life or ended, and the counters as seen now."""
    counters = ledger.counters
    by_end, ended = _by_endings(counters, snapshot, last, same_device=same_device)
    tree_ended = bool(snapshot.tree_endings_bytes)
    if tree_ended:
        by_end[0] += _tree_remainder(ledger, snapshot, by_end[0], ~ended)
    living = counters.alive & ~ended & (same_device and not tree_ended)
    fell = living & sight.present & (sight.reading[:2] < last[:2]).any(axis=0)
    unheard = counters.unheard | (not snapshot.watched_since_last_look)
    suspect = living & sight.present & ~fell & ~_same_leaf(sight.leaf, counters.leaf) & unheard
    broken = fell
    if suspect.any():
        if_lived_on = by_end + _seen(sight, last, living & ~fell)
        broken = fell | (suspect & ~_leaf_was_replaced(ledger, snapshot, sight, if_lived_on[0], suspect))
    gone = living & ~sight.present & snapshot.clean
    unmarked = living & sight.present & ~broken & unheard & (sight.leaf == 0) & (counters.leaf <= 0)
    if unmarked.any():
        if_lived_on = by_end + _seen(sight, last, living & ~broken)
        broken |= _made_anew_unmarked(ledger, snapshot, sight, if_lived_on[0], unmarked, lost=broken | gone)
    gained = by_end + _seen(sight, last, living & ~broken)
    if (broken | gone).any():
        gained[0] += _parents_remainder(ledger, snapshot, sight, gained[0], broken | gone)
    restarted = counters.alive & (ended | broken | gone | (sight.present & ~living))
    in_doubt = living & ~sight.present & ~gone
    seen = _as_seen(counters, sight, last, alive=sight.present | in_doubt, unheard=in_doubt & unheard)
    return gained, restarted, seen


def with_promised_leaves(counters: Counters, handles: I8, leaves: I8) -> Counters:
    """Return the counters of lives that are about to get a leaf queue: until it is seen, its handle stands negative.

    Should the program die before the next look is saved, the next one knows the life under either leaf.
    """
    return _with_leaves(counters, handles, -leaves)


def with_new_leaves(counters: Counters, changes: Changes, outcomes: Outcomes) -> Counters:
    """Return the counters of lives that go on under a leaf queue that we have just given them."""
    if outcomes.given_leaf is None or not outcomes.given_leaf.any():
        return counters
    given = np.flatnonzero(outcomes.given_leaf > 0)
    return _with_leaves(counters, changes.classes.handle[given], outcomes.given_leaf[given])


def _with_leaves(counters: Counters, handles: I8, leaves: I8) -> Counters:
    order = np.argsort(handles, kind="stable")
    row, among = find(handles[order], counters.handle)
    return replace(counters, leaf=np.where(among, leaves[order][row], counters.leaf))


def _same_leaf(seen: I8, known: I8) -> B1:
    """Mark lives that stand over the leaf queue that we know, or over none where one is only promised."""
    same: B1 = (seen == np.abs(known)) | ((known < 0) & (seen == 0))
    return same


def joined(earlier: Snapshot, later: Snapshot) -> Snapshot:
    """Return the later of two looks, with what ended before the earlier one, which was not counted."""
    ends = {
        name: np.concatenate([getattr(earlier.endings, name), getattr(later.endings, name)])
        for name in Endings.__dataclass_fields__
    }
    same_device = earlier.ifindex == later.ifindex
    return replace(
        later,
        watched_since_last_look=later.watched_since_last_look and earlier.watched_since_last_look,
        endings=Endings(**ends) if same_device else later.endings,
        tree_endings_bytes=(earlier.tree_endings_bytes if same_device else ()) + later.tree_endings_bytes,
    )


def _sight(counters: Counters, snapshot: Snapshot, places: Places) -> _Sight:
    row, present = places.row, places.present
    if not len(snapshot.classes):
        nothing = np.zeros(len(counters), np.int64)
        return _Sight(places, present, np.zeros((4, len(counters)), np.int64), nothing, counters.parent)
    reading, leaf = _matrix(snapshot.counts, row), snapshot.classes.leaf.take(row)
    if places.whole:
        return _Sight(places, present, reading, leaf, places.parent)
    return _Sight(
        places,
        present,
        np.where(present, reading, 0),
        np.where(present, leaf, 0),
        np.where(present, places.parent, counters.parent),
    )


def _seen(sight: _Sight, last: I8, goes_on: B1) -> I8:
    """Return what the readings add: the increase of lives that go on, the whole reading of new ones."""
    return np.where(sight.present, _increase(sight.reading, np.where(goes_on, last, 0)), 0)


def _as_seen(counters: Counters, sight: _Sight, last: I8, *, alive: B1, unheard: B1) -> Counters:
    whole = sight.places.whole
    sent, packets, dropped, overlimits = sight.reading if whole else np.where(sight.present, sight.reading, last)
    return Counters(
        handle=counters.handle,
        parent=sight.parent,
        account=counters.account,
        alive=alive,
        unheard=unheard,
        leaf=sight.leaf if whole else np.where(sight.present, sight.leaf, counters.leaf),
        sent_bytes=sent,
        sent_packets=packets,
        dropped_packets=dropped,
        overlimits=overlimits,
    )


def _by_endings(counters: Counters, snapshot: Snapshot, last: I8, *, same_device: bool) -> tuple[I8, B1]:
    """Credit the final counters of every class that is known to have ended, in the order of the ends.

    The first end of a class is that of the life we knew, unless ends may be missing from the list or are those of
    another tree; then the leaf queue decides.
    """
    gained = np.zeros_like(last)
    ended = np.zeros(len(counters), bool)
    endings = snapshot.endings
    if not len(endings):
        return gained, ended
    row_of = {handle: row for row, handle in enumerate(counters.handle.tolist())}
    leaf_decides = not same_device or bool(snapshot.tree_endings_bytes) or not snapshot.watched_since_last_look
    final = _matrix(endings)
    for ending, handle in enumerate(endings.handle.tolist()):
        row = row_of.get(handle)
        if row is None:
            continue
        same_leaf = bool(_same_leaf(endings.leaf[ending], counters.leaf[row]))
        goes_on = counters.alive[row] and not ended[row] and (same_leaf or not (leaf_decides or counters.unheard[row]))
        goes_on = goes_on and bool((final[:2, ending] >= last[:2, row]).all())
        gained[:, row] += _increase(final[:, ending], last[:, row] if goes_on else np.zeros(4, np.int64))
        ended[row] = True
    return gained, ended


def _tree_remainder(ledger: Ledger, snapshot: Snapshot, by_endings: I8, lived: B1) -> I8:
    """Share out what a deleted root queue had sent after the last look, beyond what single endings have said.

    Classes that were made after the last look may have sent as well, though no look has seen them alive.
    """
    first, *others = snapshot.tree_endings_bytes
    sent = first - ledger.tree_sent_bytes if first >= ledger.tree_sent_bytes else first
    return _shared_out(sent + sum(others) - int(by_endings.sum()), _recent(ledger), lived)


def _parents_remainder(ledger: Ledger, snapshot: Snapshot, sight: _Sight, gained: I8, lost: B1) -> I8:
    """Share out what inner classes grew by beyond their leaves among the lanes below them that lost a life unseen."""
    share = np.zeros(len(lost), np.int64)
    for handle in np.unique(sight.parent[lost]).tolist():
        remainder = _remainder_of(handle, ledger, snapshot, sight, gained)
        share += _shared_out(remainder, _recent(ledger), lost & (sight.parent == handle))
    return share


def _remainder_of(handle: int, ledger: Ledger, snapshot: Snapshot, sight: _Sight, gained: I8) -> int:
    """Return by how much an inner class grew beyond its leaves; 0 where it cannot be a witness."""
    grown = _parent_growth(ledger, snapshot, handle)
    if grown is None:
        return 0
    explained = int(gained[sight.parent == handle].sum()) + _strangers_bytes(sight.places, snapshot, handle)
    return max(0, grown - explained)


def _with_passing(tree_sent: int, before: int, gained: int) -> int:
    """Return the root's counter with what passed between its reading and that of the leaves, which is counted."""
    passed = before + gained - tree_sent
    return tree_sent + passed if 0 < passed <= max(gained, _PASSING_BYTES) else tree_sent


def _witnesses(ledger: Ledger, snapshot: Snapshot, sight: _Sight, gained: I8) -> tuple[tuple[I8, I8], int]:
    """Return the inner classes' counters and the root's for the next look.

    A dump is not one instant: a packet that passes while it runs may show in an inner class and not in its leaf, or the
    other way round, and a disturbed dump may have missed classes. So what the leaves do not explain is left out, as
    still to be explained, and what they say beyond the inner class is put in, as already counted.
    """
    rows = sight.places.inner
    inner, sent = snapshot.classes.handle[rows], snapshot.counts.sent_bytes[rows]
    tree_sent = snapshot.tree_sent_bytes
    for handle in inner.tolist():
        below = sight.places.below(handle) if sight.places.whole else np.flatnonzero(sight.parent == handle)
        grown = _parent_growth(ledger, snapshot, handle) if len(below) else None
        if grown is None:
            continue
        of_lanes = int(gained.take(below).sum())
        of_strangers = _strangers_bytes(sight.places, snapshot, handle)
        apart = grown - of_lanes - of_strangers
        passing = not of_strangers and abs(apart) <= max(of_lanes, _PASSING_BYTES)
        if passing or (apart > 0 and not snapshot.clean):
            sent[inner == handle] -= apart
        if apart > 0 and not snapshot.clean:
            tree_sent -= apart
    return (inner, sent), tree_sent


def _leaf_was_replaced(ledger: Ledger, snapshot: Snapshot, sight: _Sight, if_lived_on: I8, suspect: B1) -> B1:
    """Tell lanes whose class lives on under another leaf queue from lanes whose class was made anew.

    Had all suspects below an inner class lived on, it would have grown by the sum of gains reckoned so; had all been
    made anew, by at least that and what the suspects had counted before. The nearer one is believed. Where every leaf
    changed at once the tree was rebuilt, and its inner class's counter is not a witness.
    """
    replaced = np.zeros(len(suspect), bool)
    for handle in np.unique(sight.parent[suspect]).tolist():
        grown = _parent_growth(ledger, snapshot, handle)
        below = sight.parent == handle
        if grown is None or not (below & sight.present & ledger.counters.alive & ~suspect).any():
            continue
        lived_on = int(if_lived_on[below].sum()) + _strangers_bytes(sight.places, snapshot, handle)
        made_anew = lived_on + int(ledger.counters.sent_bytes[below & suspect].sum())
        if 2 * grown < lived_on + made_anew:
            replaced |= below & suspect
    return replaced


def _made_anew_unmarked(
    ledger: Ledger, snapshot: Snapshot, sight: _Sight, if_lived_on: I8, unmarked: B1, *, lost: B1
) -> B1:
    """Tell which classes without a leaf queue of ours were made anew while nobody listened, and regrew since.

    Only their inner class knows: it grew by what they had counted before as well. One life more explains any growth, so
    of several it is the largest that fits. Where another lane's end may explain it, all are held to have lived on.
    """
    made_anew = np.zeros(len(unmarked), bool)
    before = ledger.counters.sent_bytes
    for handle in np.unique(sight.parent[unmarked & (before > 0)]).tolist() if snapshot.clean else ():
        below = sight.parent == handle
        unexplained = 0 if (lost & below).any() else _remainder_of(handle, ledger, snapshot, sight, if_lived_on)
        fits = np.flatnonzero(unmarked & below & (before > 0) & (before <= unexplained))
        if len(fits):
            made_anew[fits[np.argmax(before[fits])]] = True
    return made_anew


def _parent_growth(ledger: Ledger, snapshot: Snapshot, handle: int) -> int | None:
    """Return what an inner class grew by since the last look; None where it cannot be a witness."""
    known = ledger.parent_handle.tolist()
    now = int(snapshot.classes.handle.searchsorted(handle))
    if handle not in known or now == len(snapshot.classes) or snapshot.classes.handle.item(now) != handle:
        return None
    grown = snapshot.counts.sent_bytes.item(now) - ledger.parent_sent_bytes.item(known.index(handle))
    return grown if grown >= 0 else None


def _strangers_bytes(places: Places, snapshot: Snapshot, parent: int) -> int:
    """Return at most what classes that feed no account have sent below an inner class."""
    sent = int(snapshot.counts.sent_bytes.take(places.strange_below(parent)).sum())
    if len(snapshot.endings):
        sent += int(snapshot.endings.sent_bytes[~is_among(snapshot.endings.handle, places.handle)].sum())
    return sent


def _recent(ledger: Ledger) -> I8:
    """Return what each lane sent of late: in the last turn, and a second's worth of the minute before it."""
    of_late: I8 = ledger.accounts.recent_bytes + ledger.accounts.recent_bytes_per_second.astype(np.int64)
    return of_late[ledger.counters.account]


def _shared_out(total: int, weight: I8, among: B1) -> I8:
    """Split bytes over rows in proportion to a weight, equally where all weigh nothing, in integers of the same sum."""
    share = np.zeros(len(among), np.int64)
    rows = np.flatnonzero(among)
    if total <= 0 or not len(rows):
        return share
    weights = weight[rows] if weight[rows].any() else np.ones(len(rows), np.int64)
    whole = int(weights.sum())
    share[rows] = [total * one // whole for one in weights.tolist()]
    share[rows[np.argmax(weights)]] += total - int(share.sum())
    return share


def _increase(reading: I8, base: I8) -> I8:
    """Subtract counts of four rows; the kernel's drops and overlimits are 32-bit and wrap."""
    increase: I8 = reading - base
    increase[2:] &= WRAP - 1
    return increase


def _matrix(counts: Counts | Counters | Endings, rows: I8 | None = None) -> I8:
    """Return what is counted as a matrix of a row a count, with these columns of it or all."""
    columns = (counts.sent_bytes, counts.sent_packets, counts.dropped_packets, counts.overlimits)
    if rows is None:
        return np.array(columns)  # half of the time of np.stack
    matrix = np.empty((len(columns), len(rows)), np.int64)
    for row, column in zip(matrix, columns, strict=True):
        column.take(rows, out=row, mode="clip")
    return matrix
