"""Which refusals the log keeps: somebody tried to change what is another's, or everybody's, and could not.

Kept is a refusal that says something of what stands in the log: that it cannot be done as things are, or that
whoever asked had not seen what they are. What was malformed, or named nothing that there is, is not.
"""

from __future__ import annotations

from typing import Any, Final

from horizon.core import commands as cmd
from horizon.core import events as ev
from horizon.core import limits
from horizon.core.decide import Events, Refusal, Rejected
from horizon.core.model import EXECUTOR
from horizon.core.state import State

OF_CONSEQUENCE: Final[frozenset[type[Any]]] = frozenset(
    {
        cmd.Cancel,
        cmd.Update,
        cmd.Requeue,
        cmd.Erase,
        cmd.SetPolicy,
        cmd.SetShare,
        cmd.CordonNode,
        cmd.ResumeNode,
        cmd.FailDevice,
        cmd.RecoverDevice,
        cmd.Book,
        cmd.EndBooking,
        cmd.RecordArchive,
    }
)
_TELLING: Final = (Refusal.CONFLICT, Refusal.STALE)


def kept(state: State, command: cmd.Command, refusal: Rejected, actor: str) -> Events:
    """What the log is to say of a refused command; nothing when it is of no consequence, or no news. O(1).

    The same of the same is news again once its stream has a new version. And however many different things a
    client in a loop asks for, refusals stay a small part of the log.
    """
    if type(command) not in OF_CONSEQUENCE or refusal.kind not in _TELLING or actor == EXECUTOR:
        return ()
    if isinstance(command, cmd.SetPolicy) and command.amends:
        return ()  # it is made anew, and nobody has been refused anything
    target = cmd.stream_of(command)
    assert target is not None
    event = ev.CommandRefused(
        command=type(command).__name__,
        target=target,
        kind=refusal.kind.value,
        detail=refusal.message,
        by=actor,
        reason=command.reason,  # type: ignore[union-attr]
    )
    refusals = state.refusals
    if refusals.seen.get(event.key) == state.stream_version(target):
        return ()
    room = limits.REFUSALS_BEGIN + state.position // limits.EVENTS_A_REFUSAL
    return (event,) if refusals.count < room else ()
