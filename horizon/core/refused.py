"""Which refusals the log keeps: somebody tried to change what is another's, or everybody's, and could not.

Kept is a refusal that says something of what stands in the log: that it cannot be done as things are, or that
whoever asked had not seen what they are. What was malformed, or named nothing that there is, is not.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Final

from msgspec import UNSET, structs

from horizon.core import commands as cmd
from horizon.core import events as ev
from horizon.core import limits
from horizon.core.decide import Events, Refusal, Rejected
from horizon.core.model import EXECUTOR
from horizon.core.state import State

OF_CONSEQUENCE: Final[dict[type[Any], tuple[str, ...]]] = {
    cmd.Cancel: (),
    cmd.Update: ("priority", "time_limit_s", "hold"),
    cmd.Requeue: (),
    cmd.Erase: (),
    cmd.SetPolicy: ("policy",),
    cmd.SetShare: ("weight", "max_gpus", "guaranteed_gpus"),
    cmd.CordonNode: ("drain", "deadline_us"),
    cmd.ResumeNode: (),
    cmd.FailDevice: (),
    cmd.RecoverDevice: (),
    cmd.Book: ("nodes", "start_us", "end_us"),
    cmd.EndBooking: (),
    cmd.RecordArchive: ("first", "last", "file"),
}
"""With the fields that say what was asked for. The log keeps them for ever: none may hold a secret."""
_TELLING: Final = (Refusal.CONFLICT, Refusal.STALE)


def kept(state: State, command: cmd.Command, refusal: Rejected, actor: str) -> Events:
    """What the log is to say of a refused command; nothing when it is of no consequence, or no news. O(1).

    The same of the same is news again once its stream has a new version; another wish, or another reason for
    it, is news at once, but not for ever: a client that varies its words in a loop must not take the room of
    others. And however many different things are asked for, refusals stay a small part of the log.
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
        asked=_asked(state, command),
    )
    refusals = state.refusals
    version, said = refusals.seen.get(event.key, (0, ()))
    is_alike = version == state.stream_version(target)
    if is_alike and (event.said in said or len(said) >= limits.REFUSALS_ALIKE):
        return ()
    room = limits.REFUSALS_BEGIN + state.position // limits.EVENTS_A_REFUSAL
    return (event,) if refusals.count < room else ()


def _asked(state: State, command: cmd.Command) -> dict[str, ev.Asked]:
    """What it would have set; of a policy, where it differs from the one in force."""
    given = {name: getattr(command, name) for name in OF_CONSEQUENCE[type(command)]}
    if isinstance(command, cmd.SetPolicy):
        before, after = structs.asdict(state.policy), structs.asdict(command.policy)
        given = {name: value for name, value in after.items() if value != before[name]}
    return {
        name: value.value if isinstance(value, Enum) else value
        for name, value in given.items()
        if value is not UNSET
    }
