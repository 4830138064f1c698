"""`Message` <-> JSON, with the elements of tensors in one of two forms.

    {"method": "infer", "fields": [["request", 7]], "tensors": [{"name": "x", "dtype": "float32", "shape": [2], ...}]}

    json       "data": [0.1, -0.0]     the elements as one flat list of numbers, the last axis running fastest
    json-b64   "b64": "zczMPQAAAIA="   their little-endian bytes in base64 (RFC 4648)

Rules:
  - Fields and tensors are lists, since of a key that comes twice in an object all readers keep one in silence.
  - A finite number is the shortest decimal that means it in its own type, -0.0 included; float16 and bfloat16 are
    float32 on the way, and a complex number is two numbers.
  - JSON has no NaN and no infinity: such an element is `null` (as orjson writes it), and "bits" beside the data holds,
    for one `null` after the other, what it is, as IEEE 754 has it, in hexadecimal (a float32 NaN: "7fc00000"). So goes
    `SHY` too. A field that is none of the numbers: {"bits": "7ff0000000000000"}.
  - A bool is 1 or 0; on the way in, `true` and `false` are taken for them everywhere.
  - What came is counted before it is parsed (`survey`), and a tensor is checked before it is built. A reader takes
    either form, whatever it is asked to write.
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
from transports.wire import exact_scalar, exact_text, incoming, outgoing, unique

FACTORS: Mapping[str, float] = {"json": 9.0, "json-b64": 1.5}
"""Codec -> how many times its tensors' bytes a body takes at most. Of numbers a float16 grows most: its two bytes can
take 17 (`-0.000012218952,`); a float32 grows at most fourfold, and of random ones 2.7 times."""

CONTAINERS = 8 * PARTS + TEXT
"""Lists and objects in a body: more than any message of ours has, brackets in its text counted too."""


BLOCK = 2**18
"""Bytes that are counted at a time."""


def most(codec: str, limits: Limits) -> int:
    """Bytes that a body may take. A character of the envelope is up to six of them (`\\u0000`)."""
    return int(FACTORS[codec] * limits.max_message) + 6 * ENVELOPE


def write(message: Message, codec: str = "json") -> bytes:
    """`message` with its tensors in the form `codec`. Raises `MalformedMessage` for what JSON is not to hold."""
    document = {
        "method": exact_text("the method", message.method),
        "fields": [[exact_text("a key", key), _write_field(key, value)] for key, value in message.fields.items()],
        "tensors": [_write_tensor(name, value, codec) for name, value in message.tensors.items()],
    }
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def read(data: bytes | bytearray, limits: Limits | None = None) -> Message:
    """The message in `data`, whichever form its tensors have. Raises `MalformedMessage` and `MessageTooLarge`."""
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
    """Count what a parser would build of `data`, before it does: two bytes can stand for a Python object of 32.

    Raises `MessageTooLarge` for more than any message below the limits has.
    """
    for what, size, limit in (
        ("lists and objects", _count(data, b"[") + _count(data, b"{"), CONTAINERS),
        ("values", _count(data, b","), limits.max_message + CONTAINERS),
    ):
        if size > limit:
            raise MessageTooLarge(f"a body of {len(data)} bytes has {size} {what}, above the limit of {limit}")


def _count(data: bytes | bytearray, character: bytes) -> int:
    """How often `data` holds `character`: several times as fast as `bytes.count`, which is made for rare ones."""
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
    return {"name": name, "dtype": tensor.dtype.name, "shape": tensor.shape, **WRITERS[codec](tensor)}


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
    flat = tensor.reshape(-1).view(_real(tensor.dtype.name))
    data = flat.astype(np.float32) if flat.dtype.name in NARROW else flat
    if data.dtype.kind != "f" or (plain := np.isfinite(data) & (np.abs(data) != SHY)).all():
        return {"data": data}
    return {"data": np.where(plain, data, data.dtype.type(np.nan)), "bits": _hexadecimal(flat[~plain])}


def _read_numbers(row: Mapping[str, Any]) -> bytes:
    name, values, kind = row["name"], row["data"], row["dtype"]
    if kind not in DTYPES:
        check_tensor(name, kind, row["shape"], 0)  # which says what would be one
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
    """`values` as an array of its own. Raises `MalformedMessage` for one that is no such number, or none so large."""
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
    """`value`, once it is an object of just the keys and types in `kinds`."""
    if type(value) is not dict or value.keys() != kinds.keys():
        raise MalformedMessage(f"{what} must be an object of {', '.join(kinds)}")
    for key, part in value.items():
        if type(part) is not kinds[key]:
            raise MalformedMessage(f"{what}: {key!r} must be a {kinds[key].__name__}, and is a {type(part).__name__}")
    return value


def _real(dtype: str) -> np.dtype[Any]:
    """What the numbers are that stand for elements of `dtype`."""
    return REALS.get(dtype, DTYPES[dtype])


SHY = np.uint32(0x15AE43FD).view(np.float32)
"""The one float32, with its negative, that its shortest decimal (7.038531e-26) does not bring back: read as a float64
and then rounded, as JSON is, that is its neighbour. All 2^32 of them have been tried."""

FLOAT64 = DTYPES["float64"]
NARROW = frozenset({"bfloat16", "float8_e4m3fn", "float8_e5m2"})
"""dtypes that are written as float32, since orjson has no such number."""
REALS: Mapping[str, np.dtype[Any]] = {
    "bool": DTYPES["uint8"],
    "complex64": DTYPES["float32"],
    "complex128": FLOAT64,
}
"""dtype whose elements are no numbers, or two -> dtype of the numbers that stand for them."""

PACKED: Mapping[str, str] = (
    dict(zip(("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"), "bhiqBHIQ", strict=True))
    | dict.fromkeys(("float16", "float32", *NARROW), "f")
    | {"float64": "d"}
)
"""dtype of numbers -> type code of the `array.array` that reads its numbers, and no others."""

MESSAGE: Mapping[str, type] = {"method": str, "fields": list, "tensors": list}
ODD: Mapping[str, type] = {"bits": str}
TENSOR: Mapping[str, type] = {"name": str, "dtype": str, "shape": list}
FORMS: Mapping[str, Mapping[str, type]] = {
    "data": {**TENSOR, "data": list},
    "bits": {**TENSOR, "data": list, "bits": list},
    "b64": {**TENSOR, "b64": str},
}
"""Key that only this form of a tensor has -> its keys, and the types of what is under them."""

WRITERS: Mapping[str, Callable[[Array], Mapping[str, Any]]] = {"json": _write_numbers, "json-b64": _write_base64}
"""Codec -> what writes the elements of a tensor."""

READERS: Mapping[str, Callable[[Mapping[str, Any]], bytes]] = {
    "data": _read_numbers,
    "bits": _read_numbers,
    "b64": _read_base64,
}
"""Form -> what reads the elements."""
