"""Answers and refusals over REST, equal for the real server (`TFS_BINARY`) and for this project's."""

from __future__ import annotations

import math
import socket
from typing import Any

import pytest

from tests.tfserving.conftest import Rest, Server

SCALE, MIXED, WORDS = (f"/v1/models/{name}:predict" for name in ("scale", "mixed", "words"))

ANSWERED: dict[str, tuple[str, Any, Any]] = {
    "rows": (SCALE, {"instances": [[1.0, 2.0], [3, 4]]}, {"predictions": [[10.0, 20.0], [30.0, 40.0]]}),
    "rows of a named input": (SCALE, {"instances": [{"x": [1.0, 0.2]}]}, {"predictions": [[10.0, 2.0]]}),
    "a column": (SCALE, {"inputs": [[1.0, 2.0]]}, {"outputs": [[10.0, 20.0]]}),
    "a column of a named input": (SCALE, {"inputs": {"x": [[1.0, 2.0]]}}, {"outputs": [[10.0, 20.0]]}),
    "a chosen version": ("/v1/models/scale/versions/2:predict", {"inputs": [[1.0, 2.0]]}, {"outputs": [[2.0, 4.0]]}),
    "a chosen signature": (SCALE, {"signature_name": "shift", "inputs": [[1.0, 2.0]]}, {"outputs": [[11.0, 12.0]]}),
    "rows of several inputs": (
        MIXED,
        {"instances": [{"a": [1.0, 2.0], "b": 3}, {"b": 4, "a": [0.0, 0.5]}]},
        {
            "predictions": [
                {"sum": [4.0, 5.0], "odd": True, "square": 9},
                {"sum": [4.0, 4.5], "odd": False, "square": 16},
            ]
        },
    ),
    "columns of several inputs": (
        MIXED,
        {"inputs": {"a": [[1.0, 2.0]], "b": [3]}},
        {"outputs": {"sum": [[4.0, 5.0]], "odd": [True], "square": [9]}},
    ),
    "bytes": (
        WORDS,
        {"instances": [{"b64": "aGk="}, "hi"]},
        {"predictions": [{"text": "hi", "raw_bytes": {"b64": "aGk="}}] * 2},
    ),
    "bytes in a column": (
        WORDS,
        {"inputs": {"s": [{"b64": "aGk="}]}},
        {"outputs": {"text": ["hi"], "raw_bytes": [{"b64": "aGk="}]}},
    ),
    "a scalar in a column": (WORDS, {"signature_name": "scalar", "inputs": [1.5, 2.0]}, {"outputs": 3.5}),
    "a name in other letters": ("/V1/MODELS/scale:PREDICT", {"inputs": [[1.0, 2.0]]}, {"outputs": [[10.0, 20.0]]}),
    "an escaped name": ("/v1/models/%73cale:predict", {"inputs": [[1.0, 2.0]]}, {"outputs": [[10.0, 20.0]]}),
}


@pytest.mark.parametrize("case", ANSWERED)
def test_predict(rest: Rest, case: str) -> None:
    path, body, expected = ANSWERED[case]
    assert rest("POST", path, body) == (200, expected)


def test_nan_and_the_infinities(rest: Rest) -> None:
    status, answer = rest("POST", SCALE, '{"instances": [[NaN, Infinity]]}')
    first, second = answer["predictions"][0]
    assert (status, math.isnan(first), second) == (200, True, math.inf)


REFUSED: dict[str, tuple[str, str, Any, int, str]] = {
    "other model": ("POST", "/v1/models/other:predict", {"instances": [1]}, 404, "Servable not found for request: "),
    "other version": ("POST", "/v1/models/scale/versions/3:predict", {"instances": [1]}, 404, "Specific(scale, 3)"),
    "huge version": (
        "POST",
        f"/v1/models/scale/versions/{2**64}:predict",
        {"instances": [1]},
        400,
        "Failed to convert version",
    ),
    "other signature": (
        "POST",
        SCALE,
        {"signature_name": "other", "instances": [[1, 2]]},
        400,
        '"other" not found in signature def',
    ),
    "signature of another type": (
        "POST",
        SCALE,
        {"signature_name": 1, "instances": [[1, 2]]},
        400,
        "'signature_name' key must be a string value",
    ),
    "other path": ("GET", "/v1/other", None, 400, "Malformed request: GET /v1/other"),
    "other method": ("GET", SCALE, None, 400, "Malformed request: GET"),
    "no model": ("GET", "/v1/models", None, 400, "Missing model name in request."),
    "empty": ("POST", SCALE, "", 400, "JSON Parse error: The document is empty"),
    "no JSON": ("POST", SCALE, "instances = [1, 2]", 400, "JSON Parse error: Invalid value"),
    "no object": ("POST", SCALE, "[1, 2]", 400, "Is not object"),
    "no tensor": ("POST", SCALE, {}, 400, "Missing 'inputs' or 'instances' key"),
    "two forms": ("POST", SCALE, {"instances": [[1, 2]], "inputs": [[1, 2]]}, 400, "only one of"),
    "no rows": ("POST", SCALE, {"instances": []}, 400, "No values in 'instances' array"),
    "no list": ("POST", SCALE, {"instances": 1}, 400, "'instances' to be an list/array"),
    "other dtype": ("POST", SCALE, {"instances": [["a", "b"]]}, 400, "not of expected type: float"),
    "a truth for a number": ("POST", SCALE, {"instances": [[True, 1.0]]}, 400, "not of expected type: float"),
    "a fraction for a whole": (
        "POST",
        MIXED,
        {"inputs": {"a": [[1, 2]], "b": [1.5]}},
        400,
        "not of expected type: int32",
    ),
    "a whole above a float's": ("POST", SCALE, {"inputs": [[2**24, 1]]}, 400, "without loss of precision"),
    "a fraction above a float's": ("POST", SCALE, {"inputs": [[1e39, 1]]}, 400, "without loss of precision"),
    "ragged": ("POST", SCALE, {"inputs": [[1, 2], [3]]}, 400, "Encountered list at unexpected size: 1 at level: 1"),
    "shallow": ("POST", SCALE, {"inputs": [[1, 2], 3]}, 400, "found at incorrect level: 2"),
    "deep": ("POST", SCALE, {"inputs": [1, [2]]}, 400, "Encountered list at unexpected level: 1 expected < 1"),
    "ragged rows": ("POST", SCALE, {"instances": [[1, 2], [3]]}, 400, "Failed to process element: 1"),
    "a row and an object": (
        "POST",
        SCALE,
        {"instances": [{"x": [1, 2]}, [1, 2]]},
        400,
        "Expecting object but got list",
    ),
    "an object and a row": (
        "POST",
        SCALE,
        {"instances": [[1, 2], {"x": [1, 2]}]},
        400,
        "Expecting value/list but got object at item 1",
    ),
    "plain rows of several": ("POST", MIXED, {"instances": [[1, 2]]}, 400, "instances is a plain list, but expecting"),
    "plain column of several": (
        "POST",
        MIXED,
        {"inputs": [[1, 2]]},
        400,
        "inputs is a plain value/list, but expecting",
    ),
    "missing row input": ("POST", MIXED, {"instances": [{"a": [1, 2]}]}, 400, "keys must be equal to: a,b"),
    "missing column input": (
        "POST",
        MIXED,
        {"inputs": {"a": [[1, 2]]}},
        400,
        "Missing named input: b in 'inputs' object",
    ),
    "other input": ("POST", SCALE, {"instances": [{"z": [1, 2]}]}, 400, "does not have named input: z"),
    "no base64": ("POST", WORDS, {"inputs": [{"b64": "?"}]}, 400, "Unable to base64 decode"),
    "a number for a string": ("POST", WORDS, {"inputs": [1]}, 400, "not of expected type: string"),
    "rows of a scalar": (
        "POST",
        WORDS,
        {"signature_name": "scalar", "instances": [1.0, 2.0]},
        400,
        "has no shape information",
    ),
    "no status": ("GET", "/v1/models/other", None, 404, "Could not find any versions of model other"),
    "no metadata": ("GET", "/v1/models/other/metadata", None, 404, "Servable not found for request: Latest(other)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_has_the_status_and_text_of_the_real_server(rest: Rest, case: str) -> None:
    method, path, body, status, words = REFUSED[case]
    answered, answer = rest(method, path, body)
    assert (answered, list(answer)) == (status, ["error"])
    assert words in answer["error"]


def state(version: str) -> dict[str, Any]:
    return {"version": version, "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}


STATES = {"/v1/models/scale": ["10", "2"], "/v1/models/scale/versions/2": ["2"]}


@pytest.mark.parametrize("path", STATES)
def test_status(rest: Rest, path: str) -> None:
    assert rest("GET", path) == (200, {"model_version_status": [state(version) for version in STATES[path]]})


@pytest.mark.parametrize(("path", "version"), [("/v1/models/scale", "10"), ("/v1/models/scale/versions/2", "2")])
def test_metadata(rest: Rest, path: str, version: str) -> None:
    status, answer = rest("GET", f"{path}/metadata")
    assert (status, answer["model_spec"]) == (200, {"name": "scale", "version": version, "signature_name": ""})
    signature = answer["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["x"]["dtype"] == "DT_FLOAT"
    assert [dim["size"] for dim in signature["inputs"]["x"]["tensor_shape"]["dim"]] == ["-1", "2"]
    assert signature["method_name"] == "tensorflow/serving/predict"


def test_a_connection_is_kept_after_every_answer(rest: Rest) -> None:
    rest("GET", "/v1/models/scale")
    kept = rest.connection.sock
    for method, path, body, *_ in REFUSED.values():
        rest(method, path, body)
    assert kept is not None
    assert rest.connection.sock is kept


def test_a_peer_that_sends_no_http_is_refused_and_others_are_served(server: Server, rest: Rest) -> None:
    with socket.create_connection(server.rest, 20) as peer:
        peer.sendall(b"hello\r\n\r\n")
        assert b" 400 " in peer.recv(10_000)
    assert rest("GET", "/v1/models/scale/versions/2")[0] == 200
