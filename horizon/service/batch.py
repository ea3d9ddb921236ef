"""Gathers decided events into the drafts of one append. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from horizon.core import events as ev
from horizon.core.state import State


class BatchBuilder:
    """The next append, being filled.

    Every decision of a batch is made on the same durable state, so two commands about one stream must not
    be in one batch: the second would not see what the first did. ``touches`` says which must wait.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._versions: dict[str, int] = {}
        self.drafts: list[ev.Draft] = []
        self.next_number = state.next_number

    def touches(self, stream: str | None) -> bool:
        """Whether the batch already changes this stream."""
        return stream in self._versions

    def add(self, events: Iterable[ev.Event], actor: str, command_id: bytes, causation: int) -> None:
        """Put the events of one decision behind those already there."""
        versions, jobs = self._versions, self._state.jobs
        for event in events:
            stream = event.stream
            version = versions.get(stream)
            if type(event) is ev.JobSubmitted:
                self.next_number += 1
                version, correlation_id = 1, command_id
            else:
                version = 1 + (self._state.stream_version(stream) if version is None else version)
                job = jobs.get(stream[4:]) if stream.startswith("job/") else None
                correlation_id = command_id if job is None else job.correlation_id
            versions[stream] = version
            if type(event) is ev.JobScheduled:
                for placement in event.allocation:  # a change of the node must not be decided beside it
                    versions.setdefault(
                        f"node/{placement.node}", self._state.stream_version(f"node/{placement.node}")
                    )
            self.drafts.append(ev.Draft(event, stream, version, actor, command_id, correlation_id, causation))
