"""JSON: every number comes back with all its bits, and lies are refused by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.transports.test_codecs import assert_read_or_refused, text
from transports import Limits, Message, json_codec
from transports.base import DTYPES
from transports.errors import MalformedMessage, MessageTooLarge


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_json_brings_back_each_number_of_two_bytes(dtype: str) -> None:
    every = np.arange(2**16, dtype=np.uint16).view(DTYPES[dtype])
    written = json_codec.write(Message("m", {}, {"x": every}), "json")
    assert json_codec.read(written).tensors["x"].tobytes() == every.tobytes()
    assert len(written) < json_codec.most("json", Limits(every.nbytes))


def test_json_brings_back_the_float32_that_its_shortest_decimal_does_not() -> None:
    bits = np.array([0x15AE43FC, 0x15AE43FD, 0x15AE43FE, 0x95AE43FD, 0x80000000, 1, 0x7F7FFFFF], np.uint32)
    written = json_codec.write(Message("m", {}, {"x": bits.view(np.float32)}), "json")
    assert json_codec.read(written).tensors["x"].tobytes() == bits.tobytes()


def test_json_brings_back_each_exponent_of_a_float32_and_a_float64() -> None:
    chance = np.random.default_rng(0)
    for real, whole in ((np.float32, np.uint32), (np.float64, np.uint64)):
        array = chance.integers(0, np.iinfo(whole).max, 100_000, whole, endpoint=True).view(real)
        written = json_codec.write(Message("m", {}, {"x": array}), "json")
        assert json_codec.read(written).tensors["x"].tobytes() == array.tobytes()
        assert len(written) < json_codec.FACTORS["json"] * array.nbytes


plain = st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False), text)
documents = st.recursive(
    plain, lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(text, inner, max_size=3))
)
forms = st.one_of(
    st.fixed_dictionaries({"data": st.one_of(st.lists(plain, max_size=3), documents)}, optional={"bits": documents}),
    st.fixed_dictionaries({"b64": st.one_of(text, documents)}),
)
rows = st.builds(
    dict.__or__,
    st.fixed_dictionaries(
        {"name": text, "dtype": st.sampled_from(sorted(DTYPES)), "shape": st.lists(plain, max_size=2)}
    ),
    forms,
)
almost = st.fixed_dictionaries(
    {"method": text, "fields": st.lists(st.tuples(text, documents), max_size=2), "tensors": st.lists(rows, max_size=2)}
)


@settings(max_examples=100)
@given(document=st.one_of(documents, almost))
def test_any_json_is_read_or_refused_and_nothing_else(document: object) -> None:
    assert_read_or_refused("json", json.dumps(document).encode())


ONES = {"name": "conv:0", "dtype": "float32", "shape": [2], "data": [1, 1.0]}
JSON_LIES: Mapping[str, tuple[str, Any]] = {
    "an unknown dtype": ("dtype 'object'", {"dtype": "object"}),
    "an unknown dtype in base64": ("dtype 'object'", {"dtype": "object", "b64": "AAAA"}),
    "a lying shape": ("takes 12 bytes, 8 came", {"shape": [3]}),
    "a lying shape of base64": ("takes 12 bytes, 8 came", {"shape": [3], "b64": "AACAPwAAgD8="}),
    "a negative extent": ("is no shape", {"shape": [-2]}),
    "a real extent": ("must be an int, and is a float", {"shape": [2.0]}),
    "a bool for an extent": ("must be an int, and is a bool", {"shape": [True, 2]}),
    "too many dimensions": ("is no shape", {"shape": [1] * 40}),
    "a wide extent": ("is no shape", {"shape": [0, 2**62, 2**62], "data": []}),
    "nested lists": ("no float32", {"data": [[1], [2]]}),
    "text for a number": ("no float32", {"data": ["1", "2"]}),
    "an object for a number": ("no float32", {"data": [{}, {}]}),
    "null for a number": ("no float32", {"data": [1, None]}),
    "a number too large": ("too large for float32", {"data": [1, 1e39]}),
    "a number too large for two bytes": ("too large for float16", {"dtype": "float16", "data": [1, 65520]}),
    "half a complex number": ("takes 16 bytes, 8 came", {"dtype": "complex64", "shape": [2]}),
    "a fraction for an integer": ("no int32", {"dtype": "int32", "data": [1, 1.5]}),
    "an integer too large": ("no uint8", {"dtype": "uint8", "data": [1, 256]}),
    "a negative count": ("no uint8", {"dtype": "uint8", "data": [1, -1]}),
    "a bool of 2": ("must be 0 or 1", {"dtype": "bool", "data": [1, 2]}),
    "text for the data": ("'data' must be a list", {"data": "11"}),
    "bits for no null": ("1 bits for 0 nulls", {"bits": ["7fc00000"]}),
    "bits too few": ("1 bits for 2 nulls", {"data": [None, None], "bits": ["7fc00000"]}),
    "bits too short": ("bits are no float32", {"data": [1, None], "bits": ["7fc0"]}),
    "bits that are none": ("no list of hexadecimal", {"data": [1, None], "bits": ["7fc0000x"]}),
    "bits that are numbers": ("no list of hexadecimal", {"data": [1, None], "bits": [7]}),
    "bits of an integer": ("bits are no int8", {"dtype": "int8", "data": [1, None], "bits": ["7f"]}),
    "no base64": ("no base64|takes 8 bytes", {"b64": "????????????"}),
    "base64 beyond ASCII": ("no base64", {"b64": "è" * 11 + "="}),
}


@pytest.mark.parametrize("lie", JSON_LIES)
def test_a_lie_in_json_is_refused_by_name(lie: str) -> None:
    why, change = JSON_LIES[lie]
    tensor = {key: value for key, value in ONES.items() if key != "data" or "b64" not in change} | change
    with pytest.raises(MalformedMessage, match=f"'conv:0'.*({why})"):
        json_codec.read(json.dumps({"method": "m", "fields": [], "tensors": [tensor]}).encode())


@pytest.mark.parametrize(
    ("why", "fields", "tensors"),
    [
        ("tensor 'conv:0' came twice", [], [ONES, ONES]),
        ("field 'k' came twice", [["k", 1], ["k", 2]], []),
        ("field must be a list of its name and its value", ["k"], []),
        ("field 'k' must be a str, int", [["k", None]], []),
        ("field 'k' does not fit 64 bits", [["k", 2**63]], []),
        ("bits are no float64", [["k", {"bits": "7fc00000"}]], []),
        ("'k' must be an object of bits", [["k", {}]], []),
        ("'conv:0' must be an object of name, dtype, shape, data", [], [ONES | {"b65": ""}]),
        ("must be an object of name, dtype, shape, data", [], [[]]),
        ("must be an object of method, fields, tensors", [], None),
    ],
)
def test_json_that_is_no_message_is_refused(why: str, fields: Any, tensors: Any) -> None:
    document = {"method": "m", "fields": list(fields), "tensors": tensors}
    if tensors is None:
        del document["tensors"]
    with pytest.raises(MalformedMessage, match=why):
        json_codec.read(json.dumps(document).encode())


@pytest.mark.parametrize(("what", "swarm"), [("lists and objects", b"[" * 10**6), ("values", b"[" + b"0," * 10**6)])
def test_a_swarm_of_small_values_is_refused_before_it_is_parsed(what: str, swarm: bytes) -> None:
    with pytest.raises(MessageTooLarge, match=rf"\d{{7}} {what}, above the limit of \d+"):
        json_codec.read(swarm, Limits(10**5))
