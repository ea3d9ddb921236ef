"""The in-memory twin keeps the contract."""

from __future__ import annotations

import pytest

from horizon.store.memory import Log, MemoryStore
from horizon.store.port import Head
from tests.store.contract import Connect, SetTo, StoreContract


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def log(self) -> Log:
        return Log()

    @pytest.fixture
    def set_back(self, log: Log) -> SetTo:
        async def set_back(head: Head) -> None:
            log.head = head
            del log.events[head.position :]

        return set_back

    @pytest.fixture
    def connect(self, log: Log) -> Connect:
        async def connect() -> MemoryStore:
            store = MemoryStore(log)
            await store.open()
            return store

        return connect
