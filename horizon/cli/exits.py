"""What a command ends with: exit codes that scripts can trust, and errors that are sentences."""

from __future__ import annotations

from typing import Final

OK: Final = 0
FAILED: Final = 1
"""The job failed, or the server refused what was asked, or this machine cannot do it."""
USAGE: Final = 2
UNREACHABLE: Final = 3
NOT_FOUND: Final = 4
CONFLICT: Final = 5
PARTIAL: Final = 6
"""What could be checked holds, and not all of it could be. The auditor ends with it, too."""
INTERRUPTED: Final = 130
PIPE_CLOSED: Final = 141

HELP: Final = """\
Exit codes: 0 done; 1 the job failed, or what was asked was refused; 2 the command line is wrong; 3 the
server cannot be reached or is not ready; 4 there is no such job or thing; 5 a conflict, such as a job that
has ended already; 6 what could be checked holds, and not all of it could be; 130 interrupted. `submit --wait`
and `--follow` end with the job's own exit code, with 128 plus the signal if a signal ended it, and with 1 if
it was cancelled or never ran.
"""


class CliError(Exception):
    """Something a user can understand and act on. Shown as one sentence, never as a stack trace."""

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code
