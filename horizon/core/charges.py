"""What holding resources costs, by the policy: the dominant of GPUs, cores and memory. Pure."""

from __future__ import annotations

from horizon.core.policy import Policy
from horizon.core.state import COST_PER_GPU


def rate_of(policy: Policy, gpus: int, gpu_type: str | None, cores: int, memory_mib: int) -> int:
    """Cost units a second. GPUs of no type in particular cost as much as those of a type not named."""
    return max(
        gpus * gpu_cost(policy, gpu_type),
        cores * COST_PER_GPU // policy.cores_per_gpu,
        memory_mib * COST_PER_GPU // (policy.memory_gb_per_gpu * 1024),
    )


def gpu_cost(policy: Policy, gpu_type: str | None) -> int:
    """Of one GPU, in cost units a second; capitals make no difference."""
    if gpu_type is None or not policy.gpu_cost:
        return COST_PER_GPU
    wanted = gpu_type.lower()
    return next((cost for name, cost in policy.gpu_cost.items() if name.lower() == wanted), COST_PER_GPU)
