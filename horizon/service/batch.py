"""Gathers decided events into the drafts of one append. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from horizon.core import events as ev
from horizon.core.decide import numbers_taken
from horizon.core.state import State


class BatchBuilder:
    """The next append, being filled.

    Every decision of a batch is made on the same durable state, so two commands about one stream must not
    be in one batch: the second would not see what the first did. ``touches`` says which must wait.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._versions: dict[str, int] = {}
        self._arrays: set[int] = set()
        """Arrays by number of which the batch changes the whole or a task."""
        self.drafts: list[ev.Draft] = []
        self.next_number = state.next_number

    def touches(self, stream: str) -> bool:
        """Whether the batch already changes this stream, or the array or a task of the job it is about."""
        if stream in self._versions:
            return True
        if not self._arrays or not stream.startswith("job/"):
            return False
        job = self._state.jobs.get(stream[4:])
        return job is not None and (job.array or job.number) in self._arrays

    def add(self, events: Iterable[ev.Event], actor: str, command_id: bytes, causation: int) -> None:
        """Put the events of one decision behind those already there."""
        versions, jobs = self._versions, self._state.jobs
        for event in events:
            stream = event.stream
            version = versions.get(stream)
            if type(event) is ev.JobSubmitted:
                self.next_number += numbers_taken(event.spec)
                version, correlation_id = 1, command_id
            else:
                version = 1 + (self._state.stream_version(stream) if version is None else version)
                job = jobs.get(stream[4:]) if stream.startswith("job/") else None
                correlation_id = command_id if job is None else job.correlation_id
                if job is not None and (job.array or job.number in self._state.arrays):
                    self._arrays.add(job.array or job.number)
            versions[stream] = version
            if type(event) is ev.JobScheduled:
                for placement in event.allocation:  # a change of the node must not be decided beside it
                    versions.setdefault(
                        f"node/{placement.node}", self._state.stream_version(f"node/{placement.node}")
                    )
            elif type(event) is ev.CommandRefused:  # nor the same be refused beside it
                versions.setdefault(event.target, self._state.stream_version(event.target))
            self.drafts.append(ev.Draft(event, stream, version, actor, command_id, correlation_id, causation))
