"""`Message` <-> JSON, with the elements of tensors in one of two forms.

    {"method": "infer", "fields": [["request", 7]], "tensors": [{"name": "x", "dtype": "float32", "shape": [2], ...}]}

    json       "data": [0.1, -0.0]     the elements as one flat list of numbers, the last axis running fastest
    json-b64   "b64": "zczMPQAAAIA="   their little-endian bytes in base64 (RFC 4648)

Rules:
  - Fields and tensors are lists, since JSON readers silently drop one of two equal keys of an object.
  - A finite number is the shortest decimal that reads back as itself, -0.0 included. float16 and bfloat16 are written
    as float32, and a complex number as two numbers.
  - JSON has no NaN and no infinity. Such an element is written as `null` (by orjson), and the key "bits" beside "data"
    lists the IEEE 754 bits of these elements in hexadecimal, in their order (a float32 NaN: "7fc00000"). The value
    `UNSTABLE` is written in the same way. A field that is NaN or infinite is written as {"bits": "7ff0000000000000"}.
  - A bool is written as 1 or 0. Readers accept `true` and `false` as well.
  - The values of a body are counted before it is parsed (`survey`), and a tensor is checked before it is built. A
    reader accepts both forms.
"""

from __future__ import annotations

import math
from array import array as Packed
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import orjson
import pybase64
from numpy.typing import NDArray

from transports.base import DTYPES, Array, Message, Scalar, check_tensor
from transports.errors import MalformedMessage, MessageTooLarge
from transports.limits import ENVELOPE, NAME, PARTS, TEXT, Limits
from transports.wire import NAMES, exact_scalar, exact_text, incoming, outgoing, unique

FACTORS: Mapping[str, float] = {"json": 9.0, "json-b64": 1.5}
"""Codec -> the largest size of a body, as a multiple of its tensors' bytes. A float16 grows most: its two bytes can
become 17 characters (`-0.000012218952,`). A float32 grows at most fourfold; random float32 values grow 2.7 times."""

CONTAINERS = 8 * PARTS + TEXT
"""Most opening brackets in a body: of lists and objects, and in texts. No message within the limits has more."""

BLOCK = 2**18
"""Bytes in which `_count` counts at a time."""


def most(codec: str, limits: Limits) -> int:
    """The largest body in bytes. One character of the envelope takes up to six bytes (`\\u0000`)."""
    return int(FACTORS[codec] * limits.max_message) + 6 * ENVELOPE


def write(message: Message, codec: str = "json") -> bytes:
    """`message` as JSON, with its tensors in the form `codec`. Raises `MalformedMessage` for values that do not fit."""
    document = {
        "method": exact_text("the method", message.method),
        "fields": [[exact_text("a key", key), _write_field(key, value)] for key, value in message.fields.items()],
        "tensors": [_write_tensor(name, value, codec) for name, value in message.tensors.items()],
    }
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def read(data: bytes | bytearray, limits: Limits | None = None) -> Message:
    """The message in `data`, with tensors in either form. Raises `MalformedMessage` and `MessageTooLarge`."""
    survey(data, limits or Limits())
    try:
        document = orjson.loads(data)
    except ValueError as error:
        raise MalformedMessage(f"{len(data)} bytes came that are no JSON: {error}") from None
    row = _row("the message", document, MESSAGE)
    return Message(
        row["method"],
        unique("field", (_read_field(pair) for pair in row["fields"])),
        unique("tensor", (_read_tensor(tensor) for tensor in row["tensors"])),
    )


def survey(data: bytes | bytearray, limits: Limits) -> None:
    """Count the values in `data` before a parser builds them: two bytes can become a Python object of 32 bytes.

    A body of up to `CONTAINERS` bytes is not counted, since it cannot hold more containers. Raises `MessageTooLarge`
    for more values than a message within the limits can have.
    """
    if len(data) <= CONTAINERS:
        return
    for what, size, limit in (
        ("lists and objects", _count(data, b"[") + _count(data, b"{"), CONTAINERS),
        ("values", _count(data, b","), limits.max_message + CONTAINERS),
    ):
        if size > limit:
            raise MessageTooLarge(f"a body of {len(data)} bytes has {size} {what}, above the limit of {limit}")


def _count(data: bytes | bytearray, character: bytes) -> int:
    """How often `character` occurs in `data`. Several times as fast as `bytes.count` if it is frequent."""
    codes = np.frombuffer(data, np.uint8)
    blocks = (codes[place : place + BLOCK] for place in range(0, len(codes), BLOCK))
    return sum(int(np.count_nonzero(block == ord(character))) for block in blocks)


def _write_field(key: str, value: object) -> Scalar | Mapping[str, str]:
    plain = exact_scalar(key, value)
    if isinstance(plain, float) and not math.isfinite(plain):
        return {"bits": _hexadecimal(np.array([plain]))[0]}
    return plain


def _read_field(pair: object) -> tuple[str, Scalar]:
    if type(pair) is not list or len(pair) != 2 or type(pair[0]) is not str:
        raise MalformedMessage("a field must be a list of its name and its value")
    key, value = pair
    if type(value) is dict:
        bits = _row(f"field {key!r}", value, ODD)["bits"]
        return key, float(_of_bits(f"field {key!r}", [bits], FLOAT64)[0])
    return key, exact_scalar(key, value)


def _write_tensor(name: str, value: Array, codec: str) -> Mapping[str, Any]:
    tensor = outgoing(exact_text("a tensor's name", name), value)
    return {"name": name, "dtype": NAMES[tensor.dtype], "shape": tensor.shape, **WRITERS[codec](tensor)}


def _read_tensor(value: object) -> tuple[str, Array]:
    given = value if type(value) is dict else {}
    form = next((form for form in FORMS if given.keys() == FORMS[form].keys()), "data")
    row = _row(f"tensor {given.get('name')!r}"[:NAME], value, FORMS[form])
    return row["name"], incoming(row["name"], row["dtype"], tuple(row["shape"]), READERS[form](row))


def _write_base64(tensor: Array) -> Mapping[str, Any]:
    return {"b64": pybase64.b64encode_as_string(tensor.reshape(-1).view(np.uint8).data)}


def _read_base64(row: Mapping[str, Any]) -> bytes:
    text = row["b64"]
    check_tensor(row["name"], row["dtype"], row["shape"], len(text) * 3 // 4 - text[-2:].count("="))
    try:
        return pybase64.b64decode(text, validate=True)
    except ValueError as error:
        raise MalformedMessage(f"tensor {row['name']!r}: its b64 is no base64: {error}") from None


def _write_numbers(tensor: Array) -> Mapping[str, Any]:
    flat = tensor.reshape(-1).view(_real(NAMES[tensor.dtype]))
    data = flat.astype(np.float32) if NAMES[flat.dtype] in NARROW else flat
    if data.dtype.kind != "f" or (plain := np.isfinite(data) & (np.abs(data) != UNSTABLE)).all():
        return {"data": data}
    return {"data": np.where(plain, data, data.dtype.type(np.nan)), "bits": _hexadecimal(flat[~plain])}


def _read_numbers(row: Mapping[str, Any]) -> bytes:
    name, values, kind = row["name"], row["data"], row["dtype"]
    if kind not in DTYPES:
        check_tensor(name, kind, row["shape"], 0)  # raises, and lists the valid dtypes
    real = _real(kind)
    check_tensor(name, kind, row["shape"], len(values) * real.itemsize)
    odd = _of_bits(f"tensor {name!r}", row.get("bits", []), real)
    places = [place for place, value in enumerate(values) if value is None] if odd.size else []
    if len(places) != odd.size:
        raise MalformedMessage(f"tensor {name!r}: {odd.size} bits for {len(places)} nulls")
    for place in places:
        values[place] = 0
    numbers = _numbers(name, values, real)
    numbers[places] = odd
    return numbers.tobytes()


def _numbers(name: str, values: list[Any], real: np.dtype[Any]) -> NDArray[Any]:
    """`values` as a new array of dtype `real`. Raises `MalformedMessage` for other types and numbers out of range."""
    try:
        packed = Packed(PACKED[real.name], values)
    except (TypeError, OverflowError) as error:
        raise MalformedMessage(f"tensor {name!r}: its data is no {real.name}: {error}") from None
    with np.errstate(over="ignore"):
        numbers = np.frombuffer(packed, packed.typecode).astype(real)
    if packed.typecode in "fd" and not np.isfinite(numbers).all():
        raise MalformedMessage(f"tensor {name!r}: a number in its data is too large for {real.name}")
    return numbers


def _hexadecimal(numbers: NDArray[Any]) -> list[str]:
    width = numbers.dtype.itemsize
    return [f"{bits:0{2 * width}x}" for bits in numbers.view(f"u{width}").tolist()]


def _of_bits(what: str, texts: list[Any], real: np.dtype[Any]) -> NDArray[Any]:
    width = real.itemsize
    try:
        data = b"".join(bytes.fromhex(text)[::-1] for text in texts)
    except (TypeError, ValueError) as error:
        raise MalformedMessage(f"{what}: its bits are no list of hexadecimal numbers: {error}") from None
    if len(data) != width * len(texts) or (texts and real.kind in "iub"):
        raise MalformedMessage(f"{what}: its bits are no {real.name}")
    return np.frombuffer(data, real)


def _row(what: str, value: object, kinds: Mapping[str, type]) -> dict[str, Any]:
    """`value`, after checking that it is an object with exactly the keys and types in `kinds`."""
    if type(value) is not dict or value.keys() != kinds.keys():
        raise MalformedMessage(f"{what} must be an object of {', '.join(kinds)}")
    for key, part in value.items():
        if type(part) is not kinds[key]:
            raise MalformedMessage(f"{what}: {key!r} must be a {kinds[key].__name__}, and is a {type(part).__name__}")
    return value


def _real(dtype: str) -> np.dtype[Any]:
    """The dtype of the numbers that are written for elements of `dtype`."""
    return REALS.get(dtype, DTYPES[dtype])


UNSTABLE = np.uint32(0x15AE43FD).view(np.float32)
"""The only float32 (with its negative) that JSON readers do not restore from its shortest decimal (7.038531e-26): they
read the decimal as a float64 and round it to a neighbouring float32. All 2^32 values were tried."""

FLOAT64 = DTYPES["float64"]
NARROW = frozenset({"bfloat16", "float8_e4m3fn", "float8_e5m2"})
"""The dtypes that orjson cannot write. Their elements are written as float32."""
REALS: Mapping[str, np.dtype[Any]] = {
    "bool": DTYPES["uint8"],
    "complex64": DTYPES["float32"],
    "complex128": FLOAT64,
}
"""dtype whose elements do not become one JSON number each -> dtype of the numbers that are written instead."""

PACKED: Mapping[str, str] = (
    dict(zip(("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"), "bhiqBHIQ", strict=True))
    | dict.fromkeys(("float16", "float32", *NARROW), "f")
    | {"float64": "d"}
)
"""dtype of numbers -> type code of the `array.array` that reads them and refuses values of all other types."""

MESSAGE: Mapping[str, type] = {"method": str, "fields": list, "tensors": list}
ODD: Mapping[str, type] = {"bits": str}
TENSOR: Mapping[str, type] = {"name": str, "dtype": str, "shape": list}
FORMS: Mapping[str, Mapping[str, type]] = {
    "data": {**TENSOR, "data": list},
    "bits": {**TENSOR, "data": list, "bits": list},
    "b64": {**TENSOR, "b64": str},
}
"""Form of a tensor, named by the key that only this form has -> all its keys and the types of their values."""

WRITERS: Mapping[str, Callable[[Array], Mapping[str, Any]]] = {"json": _write_numbers, "json-b64": _write_base64}
"""Codec -> the function that writes the elements of a tensor."""

READERS: Mapping[str, Callable[[Mapping[str, Any]], bytes]] = {
    "data": _read_numbers,
    "bits": _read_numbers,
    "b64": _read_base64,
}
"""Form -> the function that reads the elements of a tensor."""
