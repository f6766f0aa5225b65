"""What a bad link does to a message, decided by a seeded generator; knows nothing of sockets or frames."""

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Weather:
    """Probabilities per message, or per copy of one; times in milliseconds. The default is a clear sky."""

    loss: float = 0.0
    """Of every copy."""
    duplicate: float = 0.0
    """Of a second copy."""
    reorder: float = 0.0
    """Of being held so long that later messages overtake."""
    delay_ms: float = 0.0
    """Each copy takes from 0 to so much longer."""
    corrupt: float = 0.0
    """Of one to three flipped bits in a copy."""


CLEAR = Weather()
HELD_MS = 40.0


@dataclass(frozen=True)
class Copy:
    """One arrival of a message: how much later, and with which bits flipped."""

    delay_s: float = 0.0
    held: bool = False
    flips: tuple[int, ...] = ()

    def apply(self, body: bytes) -> bytes:
        damaged = bytearray(body)
        for bit in self.flips:
            damaged[bit // 8] ^= 1 << bit % 8
        return bytes(damaged)


def fate(weather: Weather, chance: random.Random, size_bytes: int) -> tuple[Copy, ...]:
    """The copies of one message that arrive; none when it is lost. The same for the same generator."""
    copies = []
    for _ in range(1 + (chance.random() < weather.duplicate)):
        lost = chance.random() < weather.loss
        delay_ms = chance.uniform(0, weather.delay_ms)
        held = chance.random() < weather.reorder
        flips: tuple[int, ...] = ()
        if chance.random() < weather.corrupt and size_bytes:
            flips = tuple({chance.randrange(8 * size_bytes) for _ in range(chance.randint(1, 3))})
        if not lost:
            copies.append(Copy((delay_ms + held * (weather.delay_ms + HELD_MS)) / 1000, held, flips))
    return tuple(copies)
