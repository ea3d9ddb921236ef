"""The policy: what an operator chose of how Horizon decides."""

from __future__ import annotations

from typing import Final

from aiohttp import web
from msgspec import UNSET
from msgspec.structs import asdict, replace

from horizon.api import wire
from horizon.api.answers import answered, encode, etag, stamp
from horizon.api.context import Context
from horizon.api.problems import Fault, invalid
from horizon.api.reading import JsonBody, expected_version, is_unchanged
from horizon.core import commands as cmd
from horizon.core import limits
from horizon.core.decide import Events, Refusal, Rejected
from horizon.core.events import PolicySet
from horizon.core.policy import Policy
from horizon.core.state import State

CHANGE: Final = JsonBody(wire.PolicyChange, limits.JOB_BODY_BYTES_MAX, wire.names_in_policy)


async def get_policy(context: Context, request: web.Request) -> web.Response:
    state = context.state
    headers = {"Content-Type": "application/json", "ETag": etag(state.policy_version)}
    if is_unchanged(request, headers["ETag"]):
        return web.Response(status=304, headers={"ETag": headers["ETag"]})
    body = encode(wire.PolicyAnswer(state.policy_version, state.policy))
    return web.Response(body=body, headers=headers)


async def put_policy(context: Context, request: web.Request) -> web.Response:
    """What is left out keeps its value, even when somebody else changes it at the same moment."""
    asked, body = await CHANGE.read(request)
    while True:
        state = context.state
        version = expected_version(request, state.policy_version)
        known = state.policy_version if version is None else version
        policy = changed(state.policy, asked)
        command = cmd.SetPolicy(policy, known, asked.reason or "", amends=version is None)
        try:
            reply = await context.ask(request, body, command, _render)
        except Rejected as refusal:
            if version is None and refusal.kind is Refusal.STALE:
                continue  # somebody was quicker: make the change to what they left
            raise
        return answered(reply, {"ETag": etag(stamp(reply.body).version)})


def changed(policy: Policy, asked: wire.PolicyChange) -> Policy:
    """The policy with what was asked for in it. Raises ``Problem`` naming what cannot be."""
    choices = {
        name: value for name, value in asdict(asked).items() if value is not UNSET and value is not None
    }
    choices.pop("reason", None)  # of the change, not of the policy
    if not choices:
        fields = ", ".join(Policy.__struct_fields__)
        raise invalid([Fault(f"changes nothing: give some of {fields}", pointer="")])
    if "topology_labels" in choices:
        choices["topology_labels"] = tuple(choices["topology_labels"])
    policy = replace(policy, **choices)
    faults = [Fault(f"{field} {what}", f"/{field}") for field, what in policy.faults()]
    if faults:
        raise invalid(faults)
    return policy


def _render(state: State, events: Events, now_us: int) -> tuple[int, bytes]:
    version, policy = state.policy_version, state.policy
    for event in events:
        if isinstance(event, PolicySet):
            version, policy = event.version, event.policy
    return 200, encode(wire.PolicyAnswer(version, policy))
