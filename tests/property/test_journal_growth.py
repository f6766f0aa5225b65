"""What a worker remembers of generations: across a crash, and never more than it needs."""

from pathlib import Path
from threading import Thread

from shard_runtime.journal import Journal
from shard_runtime.messages import GenerationEnded


def ended(number: int) -> GenerationEnded:
    return GenerationEnded(
        f"report-{number}", "node", "pool", 1, "session", f"r{number}", "stop", 3, 4, "ab" * 32, 5, 6
    )


def lines(state_dir: Path) -> int:
    return len((state_dir / "generations.jsonl").read_bytes().splitlines())


def test_neither_the_file_nor_the_memory_grows_with_every_generation(tmp_path: Path) -> None:
    journal, most = Journal(tmp_path, keep=5), 0
    for number in range(40):
        journal.write(f"c{number}")
        journal.write(f"c{number}", ended(number))
        most = max(most, lines(tmp_path))
        assert journal.end_of(f"c{number}") == ended(number)
    remembered = [number for number in range(40) if journal.began(f"c{number}")]
    assert remembered == list(range(remembered[0], 40)), "the newest are kept"
    assert 5 <= len(remembered) <= 15
    assert most <= 15
    journal.close()
    again = Journal(tmp_path, keep=5)
    kept = [number for number in range(40) if again.end_of(f"c{number}")]
    assert kept == remembered[-len(kept) :]
    assert len(kept) >= 5
    again.close()


def test_one_that_runs_long_is_not_forgotten_for_those_that_ended(tmp_path: Path) -> None:
    journal = Journal(tmp_path, keep=5)
    journal.write("long")
    for number in range(20):
        journal.write(f"c{number}")
        journal.write(f"c{number}", ended(number))
    assert journal.began("long")
    assert journal.end_of("long") is None
    journal.close()


def test_writers_of_several_threads_lose_nothing_while_the_file_is_replaced(tmp_path: Path) -> None:
    journal = Journal(tmp_path, keep=60)

    def write(first: int) -> None:
        for number in range(first, first + 15):
            journal.write(f"c{number}", ended(number))

    threads = [Thread(target=write, args=(first,)) for first in range(0, 60, 15)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.close()
    again = Journal(tmp_path, keep=60)
    assert all(again.end_of(f"c{number}") == ended(number) for number in range(60))
    again.close()
