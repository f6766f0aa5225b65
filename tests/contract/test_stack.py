"""The supervisor with real processes: order, readiness, exits, and what its own SIGKILL leaves behind."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from services.stack import register
from services.stack.identity import Identity, identify, lives, marked, signal_group
from services.stack.process import NotReady, Process
from services.stack.readiness import Probe, json_line, log_line, tcp
from services.stack.register import StackBusy
from services.stack.supervisor import StackSurvivors, supervising, survivors, sweep

TALKER = "import sys,time; print({said!r}, file=sys.{where}, flush=True); time.sleep(600)"
DEADLINE_S = 20.0


def talker(name: str, said: str = "hello", where: str = "stderr", ready: Probe | None = None) -> Process:
    argv = (sys.executable, "-c", TALKER.format(said=said, where=where))
    return Process(name, argv, ready or log_line(said), ready_within_s=DEADLINE_S)


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.02)


async def test_processes_are_ready_recorded_and_gone_afterwards(tmp_path: Path) -> None:
    async with supervising(tmp_path) as supervisor:
        await supervisor.start(talker("first"))
        second = await supervisor.start(talker("second", '{"api":"http://x"}', "stdout", json_line("api")))
        assert second.learned == {"api": "http://x"}
        supervisor.say("ready")
        record = register.read(tmp_path)
        assert record.phase == "ready"
        assert [(entry.name, entry.state()) for entry in record.processes] == [
            ("first", "running"),
            ("second", "running"),
        ]
        assert all(os.getpgid(entry.identity.pid) == entry.identity.pid for entry in record.processes)
        assert record.supervisor is not None
        assert record.supervisor.pid == os.getpid()
    after = register.read(tmp_path)
    assert after.phase == "stopped"
    assert [entry.exit_status for entry in after.processes] == [-signal.SIGTERM, -signal.SIGTERM]
    assert not any(lives(entry.identity) for entry in after.processes)


async def test_the_last_started_stops_first(tmp_path: Path) -> None:
    told = tmp_path / "order"
    code = (
        "import signal,sys,time\n"
        "def stop(*_):\n"
        f"    open({str(told)!r},'a').write(sys.argv[1]+'\\n'); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, stop); print('up', flush=True)\n"
        "time.sleep(600)"
    )
    async with supervising(tmp_path) as supervisor:
        for name in ("a", "b", "c"):
            await supervisor.start(Process(name, (sys.executable, "-c", code, name), log_line("up")))
    assert told.read_text().split() == ["c", "b", "a"]
    assert [entry.exit_status for entry in register.read(tmp_path).processes] == [0, 0, 0]


async def test_a_port_is_a_readiness(tmp_path: Path) -> None:
    code = (
        "import socket,time; s=socket.create_server(('127.0.0.1',0)); "
        "print(s.getsockname()[1],flush=True); time.sleep(600)"
    )
    async with supervising(tmp_path) as supervisor:
        probe = log_line(r"^(?P<port>\d+)\n")
        port = int(
            (await supervisor.start(Process("p", (sys.executable, "-c", code), probe))).learned["port"]
        )
        listening = supervisor.running("p").output
        assert await tcp("127.0.0.1", port)(listening) == {}
    assert await tcp("127.0.0.1", port)(listening) is None


async def test_a_process_that_ends_early_says_why(tmp_path: Path) -> None:
    code = "import sys; sys.exit('no key in the directory')"
    with pytest.raises(NotReady, match=r"early ended with 1 [\s\S]*no key in the directory"):
        async with supervising(tmp_path) as supervisor:
            await supervisor.start(Process("early", (sys.executable, "-c", code), log_line("never")))
    record = register.read(tmp_path)
    assert record.phase == "failed"
    assert "no key in the directory" in record.detail


async def test_a_program_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotReady, match="no-such-program"):
        async with supervising(tmp_path) as supervisor:
            await supervisor.start(Process("missing", ("/no-such-program",)))


async def test_one_that_ignores_the_request_to_stop_is_killed(tmp_path: Path) -> None:
    ignore = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    code = f"{ignore}; print('up', flush=True); time.sleep(600)"
    async with supervising(tmp_path) as supervisor:
        argv = (sys.executable, "-c", code)
        await supervisor.start(Process("deaf", argv, log_line("up"), stop_within_s=0.2))
    assert register.read(tmp_path).processes[0].exit_status == -signal.SIGKILL


async def test_an_exit_is_recorded_and_nothing_is_restarted(tmp_path: Path) -> None:
    async with supervising(tmp_path) as supervisor:
        running = await supervisor.start(talker("mortal"))
        os.kill(running.identity.pid, signal.SIGKILL)
        await until(lambda: register.read(tmp_path).processes[0].exit_status is not None)
        assert register.read(tmp_path).processes[0].state() == "exited (-9)"
        assert supervisor.alive() == ()
        again = await supervisor.start(talker("mortal"))
        assert again.identity != running.identity


async def test_a_state_directory_has_one_supervisor(tmp_path: Path) -> None:
    async with supervising(tmp_path):
        with pytest.raises(StackBusy):
            async with supervising(tmp_path):
                pass


async def _killed_supervisor(state_dir: Path) -> list[Identity]:
    """A supervisor in a process of its own, killed by SIGKILL when its two children run."""
    code = f"""
import asyncio
from pathlib import Path
from tests.contract.test_stack import talker
from services.stack.supervisor import supervising

async def main():
    async with supervising(Path({str(state_dir)!r})) as supervisor:
        await supervisor.start(talker("first"))
        await supervisor.start(talker("second"))
        supervisor.say("ready")
        await asyncio.Event().wait()

asyncio.run(main())
"""
    root = Path(__file__).resolve().parents[2]
    child = subprocess.Popen([sys.executable, "-c", code], cwd=root)
    try:
        await until(lambda: register.read(state_dir).phase == "ready" or child.poll() is not None)
    finally:
        child.kill()
        child.wait()
    return [entry.identity for entry in register.read(state_dir).processes]


async def test_what_outlives_a_killed_supervisor_is_found_reported_and_ended(tmp_path: Path) -> None:
    children = await _killed_supervisor(tmp_path)
    try:
        assert len(children) == 2
        assert all(lives(child) for child in children)
        assert [entry.name for entry in survivors(tmp_path)] == ["first", "second"]
        with pytest.raises(StackSurvivors, match=rf"first \(pid {children[0].pid}\)"):
            async with supervising(tmp_path):
                pass
        assert all(lives(child) for child in children), "a refused start must not stop anything"
        assert [entry.name for entry in await sweep(tmp_path)] == ["second", "first"]
        assert not any(lives(child) for child in children)
        assert survivors(tmp_path) == []
    finally:
        for child in children:
            signal_group(child, signal.SIGKILL)


async def test_a_survivor_that_no_record_names_is_found_by_its_environment(tmp_path: Path) -> None:
    children = await _killed_supervisor(tmp_path)
    try:
        register.path_of(tmp_path).unlink()
        assert {entry.identity.pid for entry in survivors(tmp_path)} == {child.pid for child in children}
        async with supervising(tmp_path, sweep_first=True) as supervisor:
            await supervisor.start(talker("new"))
            assert not any(lives(child) for child in children)
            assert {found.pid for found in marked(tmp_path)} == {supervisor.running("new").identity.pid}
    finally:
        for child in children:
            signal_group(child, signal.SIGKILL)


async def test_a_recycled_pid_is_never_signalled(tmp_path: Path) -> None:
    stranger = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
    )
    try:
        true = identify(stranger.pid, ("x",))
        assert true is not None
        boot, _, ticks = true.started.rpartition(":")
        earlier = Identity(true.pid, f"{boot}:{int(ticks) - 1}", true.argv)
        assert not signal_group(earlier, signal.SIGKILL)
        entry = register.Entry("worker", earlier, "", 0.0)
        register.write(tmp_path, register.StackRecord(None, "ready", "", {}, (entry,)))
        assert await sweep(tmp_path) == []
        assert stranger.poll() is None
        assert signal_group(true, signal.SIGKILL)
        assert stranger.wait(DEADLINE_S) == -signal.SIGKILL
    finally:
        stranger.kill()
        stranger.wait()


def test_a_half_written_register_reads_as_nothing_runs(tmp_path: Path) -> None:
    register.path_of(tmp_path).write_text('{"supervisor": {"pid"')
    assert register.read(tmp_path) == register.StackRecord()
    register.write(tmp_path, register.StackRecord(None, "stopped", "fine"))
    assert register.read(tmp_path).detail == "fine"
    assert re.fullmatch(r"0o?100600", oct(register.path_of(tmp_path).stat().st_mode))
