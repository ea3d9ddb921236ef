"""Where things are: the data directory, and in it how a client of this machine finds the server.

``horizon up`` writes ``id``, ``token`` and ``keys/signing.key`` at its first start (the last two for their
owner only), ``endpoint.json`` at every start, adds to ``checkpoints`` as it signs the log, and has
``snapshots`` written of a large one. Nothing heavy is imported here: every command passes through.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final, NamedTuple

from horizon.cli.exits import UNREACHABLE, CliError

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 7420
TOKEN_BYTES: Final = 32


class Endpoint(NamedTuple):
    """A server that was started on this machine."""

    url: str
    pid: int


def data_directory(chosen: str | None = None) -> Path:
    """The directory chosen, or ``HORIZON_DATA_DIR``, or the platform's place for a user's data."""
    chosen = chosen or os.environ.get("HORIZON_DATA_DIR")
    if chosen:
        return Path(chosen).expanduser().absolute()
    from platformdirs import user_data_path

    return user_data_path("horizon", appauthor=False)


def read_endpoint(directory: Path) -> Endpoint | None:
    """Where the server of this directory says it is; None when it has said nothing one can use."""
    try:
        fields = json.loads((directory / "endpoint.json").read_bytes())
        return Endpoint(str(fields["url"]), int(fields["pid"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_endpoint(directory: Path, endpoint: Endpoint) -> None:
    """Put it there in one step, so that no client reads half of it."""
    partial = directory / ".endpoint.json"
    partial.write_text(json.dumps(endpoint._asdict()) + "\n")
    partial.replace(directory / "endpoint.json")


def remove_endpoint(directory: Path) -> None:
    """Take ours away; another scheduler may have taken over, and this be where it is."""
    endpoint = read_endpoint(directory)
    if endpoint is not None and endpoint.pid == os.getpid():
        (directory / "endpoint.json").unlink(missing_ok=True)


def read_token(directory: Path) -> str | None:
    try:
        return (directory / "token").read_text().strip() or None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CliError(f"the token cannot be read: {error}") from error


def write_token(directory: Path) -> str:
    """A new token, readable by its owner only from its first byte on."""
    import secrets

    token = secrets.token_urlsafe(TOKEN_BYTES)
    partial = directory / ".token"
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(token + "\n")
    partial.replace(directory / "token")
    return token


def home_id(directory: Path) -> str:
    """What a data directory is known by in the log's head; made when it is first asked for."""
    import secrets

    path = directory / "id"
    if not path.exists():
        partial = directory / f".id.{os.getpid()}"
        partial.write_text(secrets.token_hex(16) + "\n")
        try:
            os.link(partial, path)  # whole, and only if no other made one in this moment
        except FileExistsError:
            pass
        finally:
            partial.unlink()
    return path.read_text().strip()


def signing_key(directory: Path) -> Path:
    """The file of the key that signs the log: what ``HORIZON_SIGNING_KEY`` names, or the directory's own."""
    chosen = os.environ.get("HORIZON_SIGNING_KEY")
    return Path(chosen).expanduser().absolute() if chosen else own_signing_key(directory)


def own_signing_key(directory: Path) -> Path:
    return directory / "keys" / "signing.key"


def archive(directory: Path) -> Path:
    """Where the files of archived partitions are: what ``HORIZON_ARCHIVE`` names, or in the directory."""
    chosen = os.environ.get("HORIZON_ARCHIVE")
    return Path(chosen).expanduser().absolute() if chosen else directory / "archive"


def checkpoints(directory: Path) -> Path:
    """The file of signed checkpoints."""
    return directory / "checkpoints"


def snapshots(directory: Path) -> Path:
    """The directory of snapshots; it may be deleted at any time."""
    return directory / "snapshots"


class Server(NamedTuple):
    """Where a client is to turn, and with which token."""

    url: str
    token: str | None


def find_server(url: str | None, directory: str | None) -> Server:
    """``HORIZON_URL`` and ``HORIZON_TOKEN`` if they are set, else what the data directory says."""
    url = url or os.environ.get("HORIZON_URL")
    token = os.environ.get("HORIZON_TOKEN")
    if url and token:
        return Server(url, token)
    place = data_directory(directory)
    endpoint = read_endpoint(place)
    if url:
        # The local token is a secret of the local server; it is not for any other.
        local = endpoint is not None and endpoint.url.rstrip("/") == url.rstrip("/")
        return Server(url, read_token(place) if local else None)
    if endpoint is None:
        message = (
            f"no Horizon is running in {place}. Start one with `horizon up`, or point HORIZON_URL and "
            "HORIZON_TOKEN at a server"
        )
        raise CliError(message, UNREACHABLE)
    return Server(endpoint.url, token or read_token(place))
