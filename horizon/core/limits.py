"""The bounds of what Horizon accepts, in one place. An operator's choices live in ``service.config``."""

from typing import Final

NAME_LENGTH_MAX: Final = 128
"""Characters in a user, an account segment, a node, a label key, a GPU type."""
ACCOUNT_DEPTH_MAX: Final = 8
"""Segments in an account path such as ``research/nlp``."""
TEXT_LENGTH_MAX: Final = 4_096
"""Characters in a job name, a comment, a label value, a working directory."""
COMMAND_BYTES_MAX: Final = 128 * 1024
"""UTF-8 bytes in a command, all its arguments together: what one ``execve`` takes on Linux."""
SCRIPT_BYTES_MAX: Final = 1024 * 1024
ENVIRONMENT_BYTES_MAX: Final = 256 * 1024
ENVIRONMENT_NAMES_MAX: Final = 1_000
LABELS_MAX: Final = 64

GPU_COUNT_MAX: Final = 1_000_000
CPU_CORES_MAX: Final = 10_000_000
MEMORY_MIB_MAX: Final = 1 << 40
NODES_MAX: Final = 100_000
TIME_LIMIT_S_MAX: Final = 10 * 366 * 86_400
GRACE_PERIOD_S_MAX: Final = 24 * 3_600
RETRIES_MAX: Final = 1_000
WEIGHT_MAX: Final = 1_000_000
ARRAY_TASKS_MAX: Final = 100_000
ARRAY_RANGES_MAX: Final = 1_000
ARRAY_INDEX_MAX: Final = 1_000_000_000
DEPENDENCIES_MAX: Final = 1_000
BOOKING_NODES_MAX: Final = 10_000
HALF_LIFE_S_MAX: Final = 10 * 366 * 86_400
RESERVATIONS_MAX: Final = 100_000
EXAMINED_MAX: Final = 1_000_000
GPU_COST_MAX: Final = 1_000_000
GPU_COSTS_MAX: Final = 1_000
TOPOLOGY_LABELS_MAX: Final = 4

BATCH_JOBS_MAX: Final = 10_000
BATCH_TASKS_MAX: Final = ARRAY_TASKS_MAX
"""Jobs and tasks that one batch may make."""
PAGE_JOBS_MAX: Final = 1_000
PAGE_EVENTS_MAX: Final = 10_000
BODY_BYTES_MAX: Final = 32 * 1024 * 1024
"""Bytes in a batch request; a single job's body is held to ``JOB_BODY_BYTES_MAX``."""
JOB_BODY_BYTES_MAX: Final = 4 * 1024 * 1024

REFUSALS_REMEMBERED: Final = 10_000
"""Refused commands of which is known that the log has them already."""
REFUSALS_ALIKE: Final = 10
"""No more are recorded of one actor, command and target that differ in what was asked, or why, alone."""
REFUSALS_BEGIN: Final = 1_000
EVENTS_A_REFUSAL: Final = 10
"""No more refusals are recorded than the first so many and then one in so many events."""

CYCLE_STARTS_MAX: Final = 1_000
"""Jobs one cycle may place, and begin times and time limits it may deal with; the next follows at once."""

DEFAULT_ACCOUNT: Final = "default"
DEFAULT_GRACE_PERIOD_S: Final = 60
DEFAULT_WEIGHT: Final = 1

ATTEMPTS_LOST_MAX: Final = 5
"""How often a job whose attempts vanish with their node is started again before it counts as the culprit."""
