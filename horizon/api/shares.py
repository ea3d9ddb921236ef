"""The share tree: who has used and holds how much, and whose turn that makes it."""

from __future__ import annotations

from typing import Annotated, Final

from aiohttp import web
from msgspec import UNSET, Meta, Struct

from horizon.api import wire
from horizon.api.answers import answered, encode, encoded, json, page
from horizon.api.context import Context
from horizon.api.faults import clipped
from horizon.api.past import At, AtQuery
from horizon.api.problems import Fault, invalid, not_found
from horizon.api.reading import JsonBody
from horizon.api.submission import account_fault, name_fault
from horizon.core import commands as cmd
from horizon.core import limits
from horizon.core.decide import Events
from horizon.core.events import QuotaSet, ShareSet
from horizon.core.ledger import Account, account_of, compare, rank_of, ranks
from horizon.core.policy import UNLIMITED
from horizon.core.state import COST_PER_GPU, Share, State
from horizon.service.inbox import Render

CHANGE: Final = JsonBody(wire.ShareChange, limits.JOB_BODY_BYTES_MAX, wire.given)
_USER: Final = {"user": True, "account": False}


class ShareQuery(Struct, frozen=True, forbid_unknown_fields=True):
    kind: (
        Annotated[wire.ShareKind, Meta(description="For a path that is both; an account when not given.")]
        | None
    ) = None
    at: At = None


class CompareQuery(Struct, frozen=True, forbid_unknown_fields=True):
    first: Annotated[str, Meta(min_length=1, description="Required: the path of a share.")] = ""
    second: Annotated[str, Meta(min_length=1, description="Required: the path of another.")] = ""
    at: At = None


async def get_shares(context: Context, request: web.Request, query: AtQuery) -> web.Response:
    return page("shares", await share_rows(*await context.as_of(request, query.at)))


async def share_rows(state: State, now_us: int) -> list[bytes]:
    shares = state.shares[1:]  # 0 is the root, which is everybody
    rank = ranks(state, now_us)

    def row(share: Share) -> bytes:
        return encode(_answer(state, account_of(state, share, now_us), rank[share.id]))

    return await encoded(shares, row)


async def get_share(context: Context, request: web.Request, query: ShareQuery) -> web.Response:
    path, user = request.match_info["path"], _is_user(query.kind, parameter="kind")
    state, now_us = await context.as_of(request, query.at)
    share = _find(state, path, user)
    if share is None:
        raise not_found(_unknown(path))
    return json(encode(_ranked(state, share, now_us)))


async def compare_shares(context: Context, request: web.Request, query: CompareQuery) -> web.Response:
    state, now_us = await context.as_of(request, query.at)
    first = _compared(state, "first", query.first)
    second = _compared(state, "second", query.second)
    found = compare(state, first, second, now_us)
    if found is None:
        detail = f"{first.path} and {second.path} have no turns of their own: one is the other, or part of it"
        raise invalid([Fault(detail, parameter="second")])
    answer = wire.ComparisonAnswer(
        found.parent.path or None,
        _ranked(state, found.first.share, now_us),
        _ranked(state, found.second.share, now_us),
        None if found.ahead is None else found.ahead.share.path,
        found.sentence,
    )
    return json(encode(answer))


def _compared(state: State, parameter: str, path: str) -> Share:
    if not path:
        raise invalid([Fault("is required: the path of a share", parameter=parameter)])
    share = _find(state, path, None)
    if share is None:
        raise not_found(_unknown(path))
    return share


def _is_user(kind: str | None, **where: str) -> bool | None:
    """Whether a user is meant, and not an account; None when nobody says."""
    if kind is not None and kind not in _USER:
        raise invalid([Fault("there are account and user", **where)])
    return None if kind is None else _USER[kind]


def _unknown(path: str) -> str:
    return f"there is no share {clipped(path)!r}: nobody has used it or set its weight"


# --- changing -----------------------------------------------------------------------------------------


async def put_share(context: Context, request: web.Request) -> web.Response:
    asked, body = await CHANGE.read(request)
    user = _is_user(asked.kind or None, pointer="/kind")
    path = request.match_info["path"]
    _check_path(path, user)
    _check_change(asked, user)
    if user is None and _find(context.state, path, None) is None:
        raise not_found(f"{_unknown(path)}; say which kind it is, a user or an account")
    max_gpus = UNLIMITED if asked.max_gpus is None else asked.max_gpus
    command = cmd.SetShare(path, asked.weight, user, max_gpus, asked.guaranteed_gpus, asked.reason or "")
    return answered(await context.ask(request, body, command, _render(path, user)))


def _check_change(asked: wire.ShareChange, user: bool | None) -> None:
    bounds = [name for name in ("max_gpus", "guaranteed_gpus") if getattr(asked, name) is not UNSET]
    if asked.weight is UNSET and not bounds:
        raise invalid([Fault("changes nothing: give weight, max_gpus or guaranteed_gpus", pointer="")])
    if user and bounds:
        raise invalid(
            Fault("is for accounts: a user has no bounds of its own", f"/{name}") for name in bounds
        )


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


def _ranked(state: State, share: Share, now_us: int) -> wire.ShareAnswer:
    account = account_of(state, share, now_us)
    return _answer(state, account, rank_of(state, share, account.score, now_us))


def _answer(state: State, account: Account, rank: int) -> wire.ShareAnswer:
    share = account.share
    return wire.ShareAnswer(
        share.path,
        state.shares[share.parent].path or None,
        "user" if share.user else "account",
        account.weight,
        rank,
        account.usage / COST_PER_GPU,
        account.held / COST_PER_GPU,
        account.charged_ahead / COST_PER_GPU,
        account.effective / COST_PER_GPU,
        account.score / COST_PER_GPU,
        share.gpus_held,
        None if share.max_gpus == UNLIMITED else share.max_gpus,
        share.guaranteed_gpus,
        state.queue.waiting_in(share.id),
    )


def _render(path: str, user: bool | None) -> Render:
    """The share as it will be once the events are in the log."""

    def render(state: State, events: Events, now_us: int) -> tuple[int, bytes]:
        kinds = [event.user for event in events if isinstance(event, ShareSet)]
        share = _find(state, path, kinds[0] if kinds else user)
        answer = _newcomer(path, any(kinds)) if share is None else _ranked(state, share, now_us)
        for event in events:
            if isinstance(event, ShareSet):
                answer.weight = event.weight
                answer.score = answer.effective_gpu_s / event.weight
                if share is not None:
                    answer.rank = rank_of(state, share, answer.score * COST_PER_GPU, now_us)
            elif isinstance(event, QuotaSet):
                answer.max_gpus = None if event.max_gpus == UNLIMITED else event.max_gpus
                answer.guaranteed_gpus = event.guaranteed_gpus
        return 200, encode(answer)

    return render


def _newcomer(path: str, user: bool) -> wire.ShareAnswer:
    """A share that nobody has used: nobody goes before it."""
    parent = path.rpartition("/")[0] or None
    kind = "user" if user else "account"
    return wire.ShareAnswer(path, parent, kind, 1, 1, 0.0, 0.0, 0.0, 0.0, 0.0, 0, None, 0, 0)
