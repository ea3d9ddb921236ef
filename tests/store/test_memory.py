"""The in-memory twin keeps the contract."""

from __future__ import annotations

import pytest

from horizon.store.memory import Log, MemoryStore
from tests.store.contract import Connect, StoreContract


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def connect(self) -> Connect:
        log = Log()

        async def connect() -> MemoryStore:
            store = MemoryStore(log)
            await store.open()
            return store

        return connect
