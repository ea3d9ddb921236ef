"""The token: who needs it, and what is said without it."""

from __future__ import annotations

import re

import aiohttp

from horizon.api.auth import authorizer
from horizon.api.routes import ROUTES
from tests.api.client import Client
from tests.world import TOKEN, Scheduler


def path_of(path: str) -> str:
    return re.sub(r"\{\w+:[^}]+\}", "1", path)


async def test_every_route_but_the_open_ones_wants_the_token(scheduler: Scheduler) -> None:
    async with aiohttp.ClientSession(scheduler.url) as stranger:
        for route in ROUTES:
            async with stranger.request(route.method, path_of(route.path)) as response:
                if route.open:
                    assert response.status == 200
                else:
                    assert response.status == 401
                    assert response.headers["WWW-Authenticate"] == 'Bearer realm="horizon"'
                    assert (await response.json(content_type=None))["status"] == 401
        async with stranger.get("/openapi.json") as response:
            assert response.status == 200


async def test_even_unknown_paths_tell_a_stranger_nothing(scheduler: Scheduler) -> None:
    async with aiohttp.ClientSession() as stranger:
        for path in ("/nope", "/api/v1/nope", "/health/", "//health"):
            async with stranger.get(scheduler.url + path) as response:
                assert response.status == 401


async def test_a_wrong_token_is_refused(client: Client) -> None:
    for given in (
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Basic {TOKEN}",
        TOKEN,
        f"Bearer {TOKEN}x",
        "Bearer \xff",
    ):
        await client.ask("GET", "/queue", headers={"Authorization": given}, status=401)
        await client.ask("POST", "/jobs", {"user_id": "a"}, headers={"Authorization": given}, status=401)


async def test_the_scheme_is_read_in_any_case(client: Client) -> None:
    await client.ask("GET", "/queue", headers={"Authorization": f"bearer {TOKEN}"}, status=200)


def test_without_a_token_everybody_may_come_in() -> None:
    assert authorizer(None)("")


def test_a_token_is_compared_whole() -> None:
    authorized = authorizer("secret")
    assert authorized("Bearer secret")
    for header in ("", "Bearer secre", "Bearer secrets", "Bearer \udcff", "BearerXsecret", "secret"):
        assert not authorized(header)
