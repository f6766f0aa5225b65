"""The Merkle tree against RFC 6962's definition, its published vectors, and tampering."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.merkle import (
    EMPTY_ROOT,
    HEADERS,
    ProofInvalid,
    Tree,
    leaf_bytes,
    leaf_hash,
    node_hash,
    verify_consistency,
    verify_inclusion,
)

# Inputs and roots of the Certificate Transparency reference test (trees of 0 to 8 leaves).
VECTOR_LEAVES = [
    "",
    "00",
    "10",
    "2021",
    "3031",
    "40414243",
    "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
]
VECTOR_ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def naive_root(leaves: list[bytes]) -> bytes:
    """Straight from RFC 6962 section 2.1."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return node_hash(naive_root(leaves[:k]), naive_root(leaves[k:]))


def naive_path(index: int, leaves: list[bytes]) -> list[bytes]:
    """PATH(m, D[n]) straight from RFC 6962 section 2.1.1."""
    if len(leaves) == 1:
        return []
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    if index < k:
        return [*naive_path(index, leaves[:k]), naive_root(leaves[k:])]
    return [*naive_path(index - k, leaves[k:]), naive_root(leaves[:k])]


def naive_proof(old: int, leaves: list[bytes], whole: bool = True) -> list[bytes]:
    """SUBPROOF(m, D[n], b) straight from RFC 6962 section 2.1.2."""
    if old == len(leaves):
        return [] if whole else [naive_root(leaves)]
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    if old <= k:
        return [*naive_proof(old, leaves[:k], whole), naive_root(leaves[k:])]
    return [*naive_proof(old - k, leaves[k:], False), naive_root(leaves[:k])]


def leaves_of(count: int) -> list[bytes]:
    return [leaf_hash(str(number).encode()) for number in range(count)]


def test_published_vectors() -> None:
    tree = Tree()
    assert tree.root() == EMPTY_ROOT == bytes.fromhex(VECTOR_ROOTS[0])
    for size, data in enumerate(VECTOR_LEAVES, 1):
        tree.append(leaf_hash(bytes.fromhex(data)))
        assert tree.root().hex() == VECTOR_ROOTS[size]


def test_every_small_tree_equals_the_definition() -> None:
    for size in range(34):
        leaves = leaves_of(size)
        tree = Tree(leaves)
        assert len(tree) == size
        assert tree.root() == naive_root(leaves)
        for index in range(size):
            path = tree.inclusion(index)
            assert list(path) == naive_path(index, leaves)
            verify_inclusion(leaves[index], index, size, path, tree.root())
        for old in range(1, size + 1):
            proof = tree.consistency(old)
            assert list(proof) == naive_proof(old, leaves)
            verify_consistency(old, size, proof, tree.root(old), tree.root())


sizes = st.integers(1, 300)


@given(size=sizes, data=st.data())
def test_a_proof_holds_in_every_earlier_tree(size: int, data: st.DataObject) -> None:
    tree = Tree(leaves_of(size))
    then = data.draw(st.integers(1, size))
    index = data.draw(st.integers(0, then - 1))
    assert tree.root(then) == naive_root(leaves_of(then))
    verify_inclusion(leaves_of(size)[index], index, then, tree.inclusion(index, then), tree.root(then))
    verify_consistency(
        index + 1, then, tree.consistency(index + 1, then), tree.root(index + 1), tree.root(then)
    )


@given(size=st.integers(2, 200), data=st.data())
def test_no_altered_inclusion_proof_passes(size: int, data: st.DataObject) -> None:
    leaves = leaves_of(size)
    tree = Tree(leaves)
    index = data.draw(st.integers(0, size - 1))
    other = data.draw(st.integers(0, size - 1).filter(lambda n: n != index))
    path = list(tree.inclusion(index))
    with pytest.raises(ProofInvalid):
        verify_inclusion(leaves[other], index, size, path, tree.root())
    with pytest.raises(ProofInvalid):
        verify_inclusion(leaves[index], other, size, path, tree.root())
    with pytest.raises(ProofInvalid):
        verify_inclusion(leaves[index], index, size, path[:-1], tree.root())
    with pytest.raises(ProofInvalid):
        verify_inclusion(leaves[index], index, size, [*path, path[0]], tree.root())
    at = data.draw(st.integers(0, len(path) - 1))
    path[at] = leaf_hash(path[at])
    with pytest.raises(ProofInvalid):
        verify_inclusion(leaves[index], index, size, path, tree.root())


@given(size=st.integers(2, 200), data=st.data())
def test_no_rewritten_history_is_consistent(size: int, data: st.DataObject) -> None:
    leaves = leaves_of(size)
    tree = Tree(leaves)
    old = data.draw(st.integers(1, size - 1))
    old_root = tree.root(old)
    rewritten = data.draw(st.integers(0, old - 1))
    forged = Tree([*leaves[:rewritten], leaf_hash(b"forged"), *leaves[rewritten + 1 :]])
    with pytest.raises(ProofInvalid):
        verify_consistency(old, size, forged.consistency(old), old_root, forged.root())
    with pytest.raises(ProofInvalid):
        verify_consistency(old, size, tree.consistency(old)[:-1], old_root, tree.root())


def test_impossible_sizes_are_refused() -> None:
    tree = Tree(leaves_of(3))
    for index, size in ((3, 3), (-1, 3), (0, 4), (0, 0)):
        with pytest.raises(ValueError, match="no "):
            tree.inclusion(index, size)
    for old, size in ((0, 3), (4, 3), (1, 4)):
        with pytest.raises(ValueError, match="no "):
            tree.consistency(old, size)
    with pytest.raises(ProofInvalid):
        verify_consistency(3, 3, [], tree.root(), EMPTY_ROOT)
    with pytest.raises(ProofInvalid):
        verify_consistency(2, 3, [], tree.root(2), tree.root())


text = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=8)
messages = st.tuples(
    text, st.integers(1, 10**6), st.dictionaries(st.sampled_from(HEADERS), text), st.binary(max_size=16)
)


@given(messages, messages)
def test_different_messages_have_different_leaves(
    one: tuple[str, int, dict[str, str], bytes], other: tuple[str, int, dict[str, str], bytes]
) -> None:
    assert (leaf_bytes(*one) == leaf_bytes(*other)) == (one == other)


def test_what_the_server_adds_is_not_covered() -> None:
    sent = {"cp-sig": "s"}
    assert leaf_bytes("a", 1, sent, b"") == leaf_bytes("a", 1, {**sent, "Nats-Time-Stamp": "now"}, b"")
