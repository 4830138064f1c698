"""Packing of messages: each tensor that a packer accepts is replaced by a packed tensor of the same name.

The field `FIELD` describes the packed tensors: {tensor: [dtype, shape]} in JSON. A tensor that would not shrink crosses
unchanged. Nothing in a peer's description is trusted: dtype, shape and the size of all tensors together are checked
before memory is allocated, and a packer allocates no more than the described size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

import msgspec

from transports.base import DTYPES, Array, Message, Scalar, check_tensor
from transports.errors import MalformedMessage, MessageTooLarge
from transports.limits import PARTS
from transports.packing.base import Packer, byte_view
from transports.wire import NAMES, incoming, outgoing

FIELD = "packing"
Described = Annotated[
    dict[str, tuple[str, Annotated[list[Annotated[int, msgspec.Meta(ge=0)]], msgspec.Meta(max_length=32)]]],
    msgspec.Meta(max_length=PARTS),
]
_decode = msgspec.json.Decoder(Described).decode
_encode = msgspec.json.Encoder().encode


def pack(tensors: Mapping[str, Array], packer: Packer, fields: dict[str, Scalar]) -> Mapping[str, Array]:
    """`tensors`, packed. Adds their description to the message's `fields`.

    Raises `MalformedMessage`, which names the tensor, for a tensor that cannot be packed.
    """
    packed: dict[str, Array] = {}
    described: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, tensor in tensors.items():
        array = outgoing(name, tensor)
        if array.size and packer.takes(dtype := NAMES[array.dtype], array.shape):
            try:
                smaller = packer.pack(array)
            except ValueError as error:
                raise MalformedMessage(f"--wire {packer.wire}: tensor {name!r}: {error}") from None
            if smaller.nbytes < array.nbytes:
                packed[name], described[name] = smaller, (dtype, array.shape)
    if not packed:
        return tensors
    fields[FIELD] = _encode(described).decode()
    return {**tensors, **packed}


def unpack(message: Message, packer: Packer, limit: int) -> Message:
    """`message` with the tensors that were packed, restored.

    Raises `MalformedMessage`, and `MessageTooLarge` if the restored tensors take more than `limit` bytes.
    """
    if FIELD not in message.fields:
        return message
    fields = dict(message.fields)
    described = _described(str(fields.pop(FIELD)), message, limit)
    tensors = dict(message.tensors)
    for name, (dtype, shape) in described.items():
        if not packer.takes(dtype, shape) or not math.prod(shape):
            raise MalformedMessage(f"tensor {name!r}: {packer.wire} packs no {dtype}{list(shape)}")
        try:
            array = packer.unpack(tensors[name], DTYPES[dtype], shape)
        except Exception as error:  # each library has exceptions of its own
            text = f"its bytes are none that {packer.wire} has written"
            raise MalformedMessage(f"tensor {name!r}: {text} ({type(error).__name__})") from error
        tensors[name] = incoming(name, dtype, shape, byte_view(array).data.toreadonly())
    return Message(message.method, fields, tensors)


def _described(text: str, message: Message, limit: int) -> Mapping[str, tuple[str, tuple[int, ...]]]:
    """The dtype and shape of each packed tensor. Raises `MalformedMessage` and `MessageTooLarge`."""
    try:
        found = {name: (dtype, tuple(shape)) for name, (dtype, shape) in _decode(text).items()}
    except msgspec.MsgspecError as error:
        raise MalformedMessage(f"the field {FIELD!r} describes no packed tensors: {error}") from None
    size = sum(tensor.nbytes for name, tensor in message.tensors.items() if name not in found)
    for name, (dtype, shape) in found.items():
        if name not in message.tensors:
            raise MalformedMessage(f"tensor {name!r} is described as packed, and did not come")
        whole = math.prod(shape) * (DTYPES[dtype].itemsize if dtype in DTYPES else 0)
        check_tensor(name, dtype, shape, whole)
        size += whole
    if size > limit:
        raise MessageTooLarge(
            f"unpacked, the tensors of {message.method!r} take {size} bytes, above the limit of {limit}"
        )
    return found
