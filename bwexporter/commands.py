"""Commands: what waits for a turn to carry it out, and for an answer.

Turns a command into the promise of an answer, and keeps it. Knows: which commands wait, which were carried out and are
answered once their turn has ended. Does not know: what a command does, who gave it, when turns run.
"""

from __future__ import annotations

import queue
from concurrent.futures import Future
from dataclasses import replace

from bwexporter.core.hand import Done, Obeyed, told
from bwexporter.core.lanes import Instant
from bwexporter.core.orders import Command
from bwexporter.turn import Turns


class Commands:
    """Any thread may give one; one thread takes turns and has them obeyed and answered."""

    def __init__(self) -> None:
        self._given = queue.SimpleQueue[tuple[Command, Future[Done]]]()
        self._obeyed: list[tuple[Command, Future[Done], Obeyed]] = []

    def give(self, command: Command) -> Future[Done]:
        """Let a command wait; return where its answer will be, or the ValueError of one that cannot be carried out."""
        waiting: Future[Done] = Future()
        self._given.put((command, waiting))
        return waiting

    @property
    def waiting(self) -> bool:
        """Say whether any waits."""
        return not self._given.empty()

    def obey(self, turns: Turns, now: Instant) -> bool:
        """Have those that wait carried out, and say whether any were; those that cannot be are answered at once."""
        done = []
        for command, waiting in self._taken():
            try:
                done.append((command, waiting, turns.obey(command, now)))
            except ValueError as refusal:
                waiting.set_exception(refusal)
        self._obeyed = done
        return bool(done)

    def answer(self, *, saved: bool) -> None:
        """Answer what was carried out, after the turn that did it."""
        answered, self._obeyed = self._obeyed, []
        for command, waiting, obeyed in answered:
            events = told(replace(obeyed, again=False), obeyed.hand.at.wall_seconds, ended_by=command)
            waiting.set_result(Done(events, saved=saved, again=obeyed.again))

    def fail(self) -> None:
        """Answer what was carried out in a turn that failed."""
        failed, self._obeyed = self._obeyed, []
        for _, waiting, _ in failed:
            waiting.set_exception(RuntimeError("the turn failed"))

    def refuse(self, sentence: str) -> None:
        """Answer all that wait, none of which will be carried out."""
        for _, waiting in self._taken():
            waiting.set_exception(ValueError(sentence))

    def _taken(self) -> list[tuple[Command, Future[Done]]]:
        """Take those that wait, without those that nobody waits for any more."""
        taken = list[tuple[Command, Future[Done]]]()
        while not self._given.empty():
            taken.append(self._given.get())
        return [(command, waiting) for command, waiting in taken if waiting.set_running_or_notify_cancel()]
