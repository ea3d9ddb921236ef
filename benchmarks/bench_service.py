"""What does a whole Horizon do: every event durable, fsync on, all on the same cores?"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.load import drive
from benchmarks.measure import note_service, size
from benchmarks.service import Service, occupy, running

SUBMISSION = json.dumps(
    {"user_id": "alice", "job_name": "train", "command": "python train.py", "gpu_count": 1}
)
CLIENTS = [1, 10, 50, 64, 100]


@pytest.fixture(scope="module")
def busy() -> Iterator[Service]:
    """A service whose every GPU is taken: what is submitted waits."""
    with running("1xH100") as service:
        occupy(service, 1)
        yield service


def once(benchmark: Any, call: Any) -> Any:
    return benchmark.pedantic(call, rounds=1, iterations=1)


@pytest.mark.parametrize("clients", CLIENTS)
def test_submit_over_http(benchmark: Any, busy: Service, clients: int) -> None:
    requests = size(4_000 if clients == 1 else 30_000, 50)
    run = once(
        benchmark,
        lambda: drive(busy.port, busy.token, "POST", ["/api/v1/jobs"], clients, requests, SUBMISSION),
    )
    question = f"durable submit over HTTP, {clients} client{'s' * (clients > 1)}"
    note_service(benchmark, question, f"{requests:,} jobs", run["seconds"], requests, run["latencies"])


@pytest.mark.parametrize("clients", [1, 4])
def test_submit_batches_over_http(benchmark: Any, busy: Service, clients: int) -> None:
    jobs, batches = size(10_000, 100), size(12, 2)
    body = json.dumps({"jobs": [json.loads(SUBMISSION)] * jobs})
    run = once(
        benchmark,
        lambda: drive(busy.port, busy.token, "POST", ["/api/v1/jobs/batch"], clients, batches, body),
    )
    question = f"durable batch submit over HTTP, {clients} client{'s' * (clients > 1)}: a job"
    note_service(benchmark, question, f"{batches} batches of {jobs:,}", run["seconds"], batches * jobs)


@pytest.mark.parametrize("clients", [1, 64])
def test_get_over_http(benchmark: Any, busy: Service, clients: int) -> None:
    requests = size(20_000, 50)
    ids = [job["id"] for job in busy.call("GET", "/api/v1/jobs?limit=100")["jobs"]]
    paths = [f"/api/v1/jobs/{id}" for id in ids]
    run = once(benchmark, lambda: drive(busy.port, busy.token, "GET", paths, clients, requests))
    question = f"get a job over HTTP, {clients} client{'s' * (clients > 1)}"
    note_service(benchmark, question, f"{requests:,} gets", run["seconds"], requests, run["latencies"])


def test_queue_stats_over_http(benchmark: Any, busy: Service) -> None:
    requests = size(10_000, 50)
    run = once(benchmark, lambda: drive(busy.port, busy.token, "GET", ["/api/v1/queue"], 1, requests))
    waiting = busy.call("GET", "/api/v1/queue")["total"]
    question = "queue stats over HTTP, 1 client"
    note_service(benchmark, question, f"{waiting:,} waiting", run["seconds"], requests, run["latencies"])


def test_true_end_to_end(benchmark: Any) -> None:
    """Submit to released: five durable events and one real process a job."""
    jobs = size(3_000, 50)
    body = {"jobs": [{"user_id": f"user-{number % 3}", "command": "true"} for number in range(jobs)]}
    with running("8xH100") as service:

        def run() -> float:
            began = time.perf_counter()
            service.call("POST", "/api/v1/jobs/batch", body)
            while service.call("GET", "/api/v1/jobs?state=Completed&limit=1")["total"] < jobs:
                time.sleep(0.05)
            return time.perf_counter() - began

        seconds = once(benchmark, run)
    note_service(benchmark, "`true` jobs end to end on local", f"{jobs:,} jobs, 8 GPUs", seconds, jobs)
