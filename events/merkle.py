"""An RFC 6962 Merkle tree over the log's stored bytes: leaves, roots, inclusion and consistency proofs.

Knows nothing of NATS and of what an event means; a leaf is hashed exactly as it is stored.
Leaf number i (from 0) is the message with sequence i + 1: the log's numbering has no holes.
"""

import hashlib
from collections.abc import Mapping, Sequence

HEADERS = (
    "Content-Type",
    "Nats-Expected-Last-Subject-Sequence",
    "Nats-Msg-Id",
    "cp-sig",
    "cp-writer",
)
"""The headers that a leaf covers, in this order: what the writer sent.

The server's own additions are not covered.
"""

EMPTY_ROOT = hashlib.sha256(b"").digest()


class ProofInvalid(Exception):
    """proof_invalid: the proof does not lead to the root; the log or the proof was altered, or they don't
    match.
    """

    code = "proof_invalid"


def leaf_bytes(subject: str, sequence: int, headers: Mapping[str, str], payload: bytes) -> bytes:
    """One stored message as one byte string: every field length-prefixed, so that none can shift into the
    next.

    An absent header differs from an empty one.
    """
    fields = [b"computepool leaf v1", subject.encode(), str(sequence).encode()]
    for name in HEADERS:
        value = headers.get(name)
        fields.append(b"-" if value is None else b"+" + value.encode())
    fields.append(payload)
    return b"".join(len(part).to_bytes(8, "big") + part for part in fields)


def leaf_hash(data: bytes) -> bytes:
    """SHA-256(0x00 || data), RFC 6962 section 2.1."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right), RFC 6962 section 2.1."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Tree:
    """Grows leaf by leaf; keeps every node, 64 bytes of hashes per leaf."""

    def __init__(self, leaves: Sequence[bytes] = ()) -> None:
        self._levels: list[list[bytes]] = [[]]
        for leaf in leaves:
            self.append(leaf)

    def __len__(self) -> int:
        return len(self._levels[0])

    def append(self, leaf: bytes) -> None:
        """Add a leaf hash (32 bytes)."""
        node, level = leaf, 0
        while True:
            if level == len(self._levels):
                self._levels.append([])
            row = self._levels[level]
            row.append(node)
            if len(row) % 2:
                return
            node, level = node_hash(row[-2], row[-1]), level + 1

    def root(self, size: int | None = None) -> bytes:
        """The root of the first `size` leaves (all, when None). Raises ValueError beyond the tree."""
        size = len(self) if size is None else size
        self._check(size)
        return EMPTY_ROOT if size == 0 else self._range(0, size)

    def inclusion(self, index: int, size: int | None = None) -> tuple[bytes, ...]:
        """The audit path of leaf `index` in the tree of `size` leaves, from the leaf up (RFC 6962 2.1.1)."""
        size = len(self) if size is None else size
        self._check(size)
        if not 0 <= index < size:
            raise ValueError(f"no leaf {index} among {size}")
        path: list[bytes] = []
        first, end = 0, size
        while end - first > 1:
            middle = first + _split(end - first)
            if index < middle:
                path.append(self._range(middle, end))
                end = middle
            else:
                path.append(self._range(first, middle))
                first = middle
        return tuple(reversed(path))

    def consistency(self, old_size: int, size: int | None = None) -> tuple[bytes, ...]:
        """Proof that the first `old_size` leaves are a prefix of the first `size` (RFC 6962 2.1.2)."""
        size = len(self) if size is None else size
        self._check(size)
        if not 0 < old_size <= size:
            raise ValueError(f"no consistency proof from {old_size} to {size}")
        path: list[bytes] = []
        first, end, whole = 0, size, True
        while old_size != end:
            middle = first + _split(end - first)
            if old_size <= middle:
                path.append(self._range(middle, end))
                end = middle
            else:
                path.append(self._range(first, middle))
                first, whole = middle, False
        if not whole:
            path.append(self._range(first, end))
        return tuple(reversed(path))

    def _check(self, size: int) -> None:
        if not 0 <= size <= len(self):
            raise ValueError(f"no tree of {size} leaves: there are {len(self)}")

    def _range(self, first: int, end: int) -> bytes:
        """The root over leaves [first, end); `first` is a multiple of the range's largest power of two."""
        count = end - first
        if count & (count - 1) == 0:
            level = count.bit_length() - 1
            return self._levels[level][first >> level]
        middle = first + _split(count)
        return node_hash(self._range(first, middle), self._range(middle, end))


def _split(count: int) -> int:
    """The largest power of two smaller than `count`."""
    return 1 << (count - 1).bit_length() - 1


def verify_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> None:
    """Check that `leaf` stands at `index` of the tree with this root. Source: RFC 9162 2.1.3.2.

    Raises ProofInvalid.
    """
    if not 0 <= index < size:
        raise ProofInvalid(f"no leaf {index} among {size}")
    node, last, computed = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            raise ProofInvalid("the path is too long")
        if node & 1 or node == last:
            computed = node_hash(sibling, computed)
            while node & 1 == 0 and node != 0:
                node, last = node >> 1, last >> 1
        else:
            computed = node_hash(computed, sibling)
        node, last = node >> 1, last >> 1
    if last != 0 or computed != root:
        raise ProofInvalid("the path leads to another root")


def verify_consistency(old_size: int, size: int, path: Sequence[bytes], old_root: bytes, root: bytes) -> None:
    """Check that the old tree is a prefix of the new one. Source: RFC 9162 2.1.4.2. Raises ProofInvalid."""
    if not 0 < old_size <= size:
        raise ProofInvalid(f"no consistency from {old_size} to {size}")
    if old_size == size:
        if path or old_root != root:
            raise ProofInvalid("equal sizes, other roots")
        return
    proof = [old_root, *path] if old_size & (old_size - 1) == 0 else list(path)
    if not proof:
        raise ProofInvalid("the path is empty")
    node, last = old_size - 1, size - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    old, new = proof[0], proof[0]
    for sibling in proof[1:]:
        if last == 0:
            raise ProofInvalid("the path is too long")
        if node & 1 or node == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while node & 1 == 0 and node != 0:
                node, last = node >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        node, last = node >> 1, last >> 1
    if last != 0 or old != old_root or new != root:
        raise ProofInvalid("the path leads to other roots")
