"""Arguments as workflows write them come to the calldata that a contract takes; what fits nowhere is
refused.
"""

import json
from typing import Any

import pytest

from services.chain import abi
from services.keeper.runner.abi_values import ArgumentsInvalid, event_of, function_of

ME, OTHER = "0x" + "aB" * 20, "0x" + "cd" * 20
TERMS = [
    {"name": "payer", "type": "address"},
    {"name": "rate", "type": "uint96"},
    {"name": "flag", "type": "bool"},
]
ABI = json.dumps(
    [
        {
            "type": "function",
            "name": "pay",
            "inputs": [{"name": "to", "type": "address"}, {"name": "n", "type": "int96"}],
        },
        {
            "type": "function",
            "name": "open",
            "inputs": [{"name": "terms", "type": "tuple", "components": TERMS}],
        },
        {
            "type": "function",
            "name": "many",
            "inputs": [
                {"name": "all", "type": "tuple[]", "components": TERMS},
                {"name": "votes", "type": "bytes[]"},
                {"name": "said", "type": "string"},
            ],
        },
        {"type": "function", "name": "twice", "inputs": [{"name": "a", "type": "uint256"}]},
        {"type": "function", "name": "twice", "inputs": [{"name": "a", "type": "bytes32"}]},
        {
            "type": "event",
            "name": "Paid",
            "inputs": [
                {"name": "from", "type": "address", "indexed": True},
                {"name": "n", "type": "uint256", "indexed": False},
                {"name": "key", "type": "bytes32", "indexed": True},
                {"name": "note", "type": "string", "indexed": True},
            ],
        },
    ]
)
CALLS: dict[str, tuple[str, Any, bytes]] = {
    "texts": ("pay", [ME, "-5"], abi.call("pay(address,int96)", ME, -5)),
    "hexadecimal and numbers": ("pay", [ME, 5], abi.call("pay(address,int96)", ME, 5)),
    "hexadecimal": ("pay", [ME, "0x10"], abi.call("pay(address,int96)", ME, 16)),
    "empty arguments at the end": ("pay", [ME, "1", "", ""], abi.call("pay(address,int96)", ME, 1)),
    "a tuple as a list": ("open", [[ME, "7", True]], abi.call("open((address,uint96,bool))", (ME, 7, True))),
    "a tuple as an object": (
        "open",
        [{"flag": "false", "rate": 7, "payer": ME}],
        abi.call("open((address,uint96,bool))", (ME, 7, False)),
    ),
    "a tuple as JSON in a text": (
        "open",
        [json.dumps([ME, "7", "true"])],
        abi.call("open((address,uint96,bool))", (ME, 7, True)),
    ),
    "a tuple's parts laid flat": (
        "open",
        [ME, "7", True],
        abi.call("open((address,uint96,bool))", (ME, 7, True)),
    ),
    "lists of tuples and of bytes": (
        "many",
        [[[ME, "1", True], [OTHER, "2", False]], ["0x", "0xab"], 'a "quote"'],
        abi.call(
            "many((address,uint96,bool)[],bytes[],string)",
            [(ME, 1, True), (OTHER, 2, False)],
            [b"", b"\xab"],
            'a "quote"',
        ),
    ),
    "by the whole signature": (
        "twice(bytes32)",
        ["0x" + "01" * 32],
        abi.call("twice(bytes32)", b"\x01" * 32),
    ),
}
WRONG: dict[str, tuple[str, Any]] = {
    "no address": ("pay", ["me", "1"]),
    "no number": ("pay", [ME, "one"]),
    "a fraction": ("pay", [ME, 1.5]),
    "a truth for a number": ("pay", [ME, True]),
    "a number that is too large": ("pay", [ME, str(2**95)]),
    "nothing": ("pay", [ME, None]),
    "too many": ("pay", [ME, "1", "2"]),
    "no list": ("pay", {"to": ME}),
    "a truth that is none": ("open", [[ME, "1", "maybe"]]),
    "a list for a truth": ("open", [[ME, "1", []]]),
    "a tuple that is too short": ("open", [[ME, "1"]]),
    "a tuple that is no JSON": ("open", ["[1,"]),
    "bytes without 0x": ("many", [[], ["ab"], ""]),
    "a number for bytes": ("many", [[], [5], ""]),
    "half a byte": ("many", [[], ["0xa"], ""]),
    "two functions of one name": ("twice", ["1"]),
    "no such function": ("burn", []),
}


@pytest.mark.parametrize(("name", "arguments", "calldata"), CALLS.values(), ids=CALLS)
def test_what_is_written_comes_to_calldata(name: str, arguments: Any, calldata: bytes) -> None:
    assert function_of(ABI, name).calldata(json.dumps(arguments)) == calldata


@pytest.mark.parametrize(("name", "arguments"), WRONG.values(), ids=WRONG)
def test_what_fits_nowhere_is_refused(name: str, arguments: Any) -> None:
    with pytest.raises(ArgumentsInvalid):
        function_of(ABI, name).calldata(json.dumps(arguments))


@pytest.mark.parametrize("written", ["", "[", "{}", '[{"type":"function"}]', "5"])
def test_what_is_no_abi_is_refused(written: str) -> None:
    with pytest.raises(ArgumentsInvalid):
        function_of(written, "pay")


def test_filters_are_for_indexed_words_in_their_order() -> None:
    paid = event_of(ABI, "Paid")
    first = abi.topic("Paid(address,uint256,bytes32,string)")
    assert paid.topics("") == [first]
    assert paid.topics(json.dumps([ME])) == [first, bytes(12) + bytes.fromhex(ME[2:])]
    assert paid.topics(json.dumps(["", "0x" + "07" * 32])) == [first, None, b"\x07" * 32]
    assert paid.topics(json.dumps(["", ""])) == [first]
    for wrong in (["", "", "a note"], ["", "", "", ""], ["me"]):
        with pytest.raises(ArgumentsInvalid):
            paid.topics(json.dumps(wrong))
