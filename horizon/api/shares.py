"""The share tree: who has used and holds how much, and whose turn that makes it."""

from __future__ import annotations

from typing import Annotated, Final

from aiohttp import web
from msgspec import Meta, Struct

from horizon.api import wire
from horizon.api.answers import encode, encoded, json, page
from horizon.api.context import Context
from horizon.api.faults import clipped
from horizon.api.problems import Fault, invalid, not_found
from horizon.api.reading import JsonBody
from horizon.api.submission import account_fault, name_fault
from horizon.core import commands as cmd
from horizon.core import limits
from horizon.core.decide import Events
from horizon.core.events import ShareSet
from horizon.core.state import COST_PER_GPU, Share, State

WEIGHT: Final = JsonBody(wire.ShareChange, limits.JOB_BODY_BYTES_MAX, wire.given)
_USER: Final = {"user": True, "account": False}


class ShareQuery(Struct, frozen=True, forbid_unknown_fields=True):
    kind: (
        Annotated[
            str,
            Meta(
                description="For a path that is both; an account when not given.",
                extra_json_schema={"enum": ["account", "user"]},
            ),
        ]
        | None
    ) = None


async def get_shares(context: Context, request: web.Request) -> web.Response:
    state, now_us = context.state, context.now_us()
    shares = state.shares[1:]  # 0 is the root, which is everybody
    return page("shares", await encoded(shares, lambda share: encode(_answer(state, share, now_us))))


async def get_share(context: Context, request: web.Request, query: ShareQuery) -> web.Response:
    path = request.match_info["path"]
    if query.kind is not None and query.kind not in _USER:
        raise invalid([Fault("there are account and user", parameter="kind")])
    share = _find(context.state, path, None if query.kind is None else _USER[query.kind])
    if share is None:
        raise not_found(f"there is no share {clipped(path)!r}: nobody has used it or set its weight")
    return json(encode(_answer(context.state, share, context.now_us())))


async def put_share(context: Context, request: web.Request) -> web.Response:
    asked, body = await WEIGHT.read(request)
    user = None
    if asked.kind:
        if asked.kind not in _USER:
            raise invalid([Fault("there are account and user", "/kind")])
        user = _USER[asked.kind]
    path = request.match_info["path"]
    _check_path(path, user)

    def render(state: State, events: Events, now_us: int) -> tuple[int, bytes]:
        (event,) = events
        assert isinstance(event, ShareSet)
        return 200, encode(_foreseen(state, event, now_us))

    reply = await context.ask(request, body, cmd.SetShare(path, asked.weight, user), render)
    headers = {"Content-Type": "application/json"}
    if reply.replayed:
        headers["Idempotency-Replayed"] = "true"
    return web.Response(body=reply.body, status=reply.status, headers=headers)


def _check_path(path: str, user: bool | None) -> None:
    """An account's path, or a user below one: only then may it be one segment longer."""
    account, _, name = path.rpartition("/")
    if user is False or not account:
        fault = account_fault(path)
    else:
        fault = account_fault(account) or name_fault(name)
        if not fault and not 1 <= len(name) <= limits.NAME_LENGTH_MAX:
            fault = f"ends in a name that has not 1 to {limits.NAME_LENGTH_MAX} characters"
    if fault:
        raise invalid([Fault(f"the path {fault}", parameter="path")])


def _find(state: State, path: str, user: bool | None) -> Share | None:
    """By path; where it names both an account and a user and nobody says which, the account."""
    account, _, user_id = path.rpartition("/")
    if user is None:
        return state.accounts.get(path) or state.users.get((account, user_id))
    return state.users.get((account, user_id)) if user else state.accounts.get(path)


def _answer(state: State, share: Share, now_us: int) -> wire.ShareAnswer:
    queue = state.queue
    return wire.ShareAnswer(
        share.path,
        state.shares[share.parent].path or None,
        "user" if share.user else "account",
        queue.weight(share.id),
        queue.usage(share.id, now_us) / COST_PER_GPU,
        queue.effective(share.id, now_us) / COST_PER_GPU,
        queue.score(share.id, now_us) / COST_PER_GPU,
        share.gpus_held,
        queue.waiting_in(share.id),
    )


def _foreseen(state: State, event: ShareSet, now_us: int) -> wire.ShareAnswer:
    """The share as it will be once the event is in the log."""
    share = _find(state, event.path, event.user)
    if share is not None:
        answer = _answer(state, share, now_us)
        answer.weight = event.weight
        answer.score = answer.effective_gpu_s / event.weight
        return answer
    parent = event.path.rpartition("/")[0] or None
    kind = "user" if event.user else "account"
    return wire.ShareAnswer(event.path, parent, kind, event.weight, 0.0, 0.0, 0.0, 0, 0)
