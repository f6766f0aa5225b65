"""What an operator sees while a worker loads: bars on a terminal, lines elsewhere, from its own log."""

import asyncio
import io
import json
import os
import pty
from pathlib import Path
from typing import Any

import pytest

from services.load_display import Bars, Lines, display_on, follow
from shard_runtime.loading import EVERY_S, Loaded, LoadingLog

DIGEST = "ab" * 32
ABOUT = {"pool_id": "p" * 26, "epoch": 3}


def log_of_a_load(tensors: int = 40) -> list[dict[str, Any]]:
    steps = [
        {
            "event": "slice_progress",
            **ABOUT,
            **Loaded(f"model.layers.{n}.w", n, tensors, n * 1024, tensors * 1024)._asdict(),
        }
        for n in range(1, tensors + 1)
    ]
    begin = {"event": "slice_loading", **ABOUT, "model": "tales", "weights_digest": DIGEST}
    end = {"event": "slice_loaded", **ABOUT, "slice_bytes": tensors * 1024, "load_ms": 400, "kept": False}
    layers = {"first_layer": 2, "end_layer": 6, "weights_digest": DIGEST}
    return [{**begin, **layers}, *steps, {**end, **layers}]


def test_without_a_terminal_a_load_is_a_few_plain_lines() -> None:
    stream = io.StringIO()
    display = display_on(stream)
    assert isinstance(display, Lines)
    for line in log_of_a_load():
        display.tell(line)
    where = f"pool {'p' * 26} epoch 3:"
    assert stream.getvalue().splitlines() == [
        f"{where} loading layers 2-5 of tales, weights {DIGEST[:16]}",
        f"{where} 10.0K of 40.0K, 10 of 40 tensors, last model.layers.10.w",
        f"{where} 20.0K of 40.0K, 20 of 40 tensors, last model.layers.20.w",
        f"{where} 30.0K of 40.0K, 30 of 40 tensors, last model.layers.30.w",
        f"{where} 40.0K of 40.0K, 40 of 40 tensors, last model.layers.40.w",
        f"{where} layers 2-5 ready, 40.0K in 0.4 s; every tensor is the agreed one (weights {DIGEST[:16]})",
    ]


def test_a_load_that_failed_says_why() -> None:
    stream = io.StringIO()
    begin = log_of_a_load()[0]
    failed = {
        "event": "slice_failed",
        **ABOUT,
        "code": "weights_mismatch",
        "detail": "tensor x is not the agreed one",
    }
    for line in (begin, failed):
        Lines(stream).tell(line)
    assert stream.getvalue().endswith("failed, weights_mismatch: tensor x is not the agreed one\n")


def on_a_terminal(lines: list[dict[str, Any]]) -> str:
    """What a terminal of 120 columns gets to see."""
    ours, theirs = pty.openpty()
    seen = bytearray()
    with os.fdopen(theirs, "w") as terminal:
        display = display_on(terminal)
        assert isinstance(display, Bars)
        for line in lines:
            display.tell(line)
            if line["event"] == "slice_progress":
                display.refresh()
        display.close()
        terminal.flush()
        os.set_blocking(ours, False)
        while True:
            try:
                seen += os.read(ours, 65536)
            except (BlockingIOError, OSError):
                break
    os.close(ours)
    return seen.decode()


def test_on_a_terminal_a_bar_grows_and_the_result_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    seen = on_a_terminal(log_of_a_load(8))
    assert "\x1b[" in seen
    assert "━" in seen
    assert "8.0/8.0" in seen.replace(" KiB", "").replace(" kB", "")
    assert "8/8 model.layers.8.w" in seen
    assert "every tensor is the agreed one" in seen
    assert "loading layers 2-5 of tales" in seen


def test_the_log_is_followed_to_its_end_and_other_lines_are_left(tmp_path: Path) -> None:
    log, stream, over = tmp_path / "worker.log", io.StringIO(), asyncio.Event()
    *most, last = [json.dumps(line) for line in log_of_a_load(4)]

    async def story() -> None:
        following = asyncio.create_task(follow(log, Lines(stream), over.is_set))
        await asyncio.sleep(0)
        log.write_text('{"event": "worker_started"}\nnot json "slice_\n' + "\n".join(most) + "\n" + last[:20])
        while "4 of 4 tensors" not in stream.getvalue():
            await asyncio.sleep(0.01)
        with log.open("a") as file:
            file.write(last[20:] + "\n")
        over.set()
        await following

    asyncio.run(asyncio.wait_for(story(), 30))
    told = stream.getvalue().splitlines()
    assert len(told) == 6
    assert "ready, 4.0K" in told[-1]


def test_the_log_gets_the_first_and_the_last_tensor_and_some_between() -> None:
    said: list[dict[str, Any]] = []
    now_s = 0.0
    log = LoadingLog(lambda event, **fields: said.append(fields), lambda: now_s)
    for number in range(1, 101):
        log(Loaded(f"t{number}", number, 100, number, 100))
        now_s += EVERY_S / 10
    numbers = [fields["tensors_done"] for fields in said]
    assert numbers[0] == 1
    assert numbers[-1] == 100
    assert 10 <= len(numbers) <= 12
