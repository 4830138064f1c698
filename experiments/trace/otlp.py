"""Sends the spans of trace.json to an OpenTelemetry collector (OTLP over HTTP).

https://opentelemetry.io/docs/specs/otlp/#otlphttp. Needs the extra `tracing`.
"""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from experiments.store import trace_file
from experiments.store.trace_file import Event, Trace
from transports.errors import SplitbenchError, UsageError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

PATH = "/v1/traces"
"""The path at which collectors take spans."""
BATCH = 512
TIMEOUT = 5.0
"""Seconds in which the collector has to take a batch."""
NEEDED = ("opentelemetry.sdk", "opentelemetry.exporter")


class NotTaken(SplitbenchError):
    """The collector did not take the spans; the text says why."""


def send(folder: Path, url: str) -> int:
    """Send every span of the trace in `folder`; returns how many. Raises `UsageError` and `NotTaken`."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise UsageError(f"--otlp {url!r}: no address of a collector; valid: http://HOST:PORT, for example with 4318")
    if not all(map(_installed, NEEDED)):
        raise UsageError(
            "--otlp needs OpenTelemetry, which is in the extra `tracing`: pip install 'splitbench[tracing]'"
        )
    trace = trace_file.read(folder)
    spans = list(_spans(trace))
    _export(spans, url if parts.path.strip("/") else parts._replace(path=PATH).geturl())
    return len(spans)


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the package around the module is not installed either
        return False


def _export(spans: Sequence[ReadableSpan], endpoint: str) -> None:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import SpanExportResult

    heard = _Heard()
    logger = logging.getLogger("opentelemetry")
    logger.addHandler(heard)
    logger.propagate = False
    exporter = OTLPSpanExporter(endpoint=endpoint, timeout=TIMEOUT)
    try:
        for place in range(0, len(spans), BATCH):
            if exporter.export(spans[place : place + BATCH]) is not SpanExportResult.SUCCESS:
                raise NotTaken(f"{endpoint} took no spans: {heard.reason}; start a collector there")
    finally:
        exporter.shutdown()  # type: ignore[no-untyped-call]
        logger.removeHandler(heard)
        logger.propagate = True


class _Heard(logging.Handler):
    """Keeps the first reason that the library logs, and prints none: later ones only say that it has tried again."""

    reason = ""

    def emit(self, record: logging.LogRecord) -> None:
        text = " ".join(record.getMessage().split())
        system = re.search(r"\[Errno -?\d+\] ([\w ]+)", text)
        self.reason = self.reason or (system[1] if system else text)


def _spans(trace: Trace) -> Iterator[ReadableSpan]:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanContext, SpanKind, TraceFlags

    kinds = {"call": SpanKind.CLIENT, "serve": SpanKind.SERVER}
    # `Resource.create` is not used, since it adds facts about this machine.
    homes = {
        pid: Resource({"service.namespace": "splitbench", "service.name": n}) for pid, n in trace.processes.items()
    }

    def context(args: Mapping[str, Any], key: str) -> SpanContext | None:
        if not args[key]:
            return None
        return SpanContext(int(args["trace"], 16), int(args[key], 16), is_remote=False, trace_flags=TraceFlags(1))

    for event in trace.spans:
        args = event["args"]
        begin, end = _moments(event, trace.epoch)
        yield ReadableSpan(
            name=event["name"],
            context=context(args, "span"),
            parent=context(args, "parent"),
            resource=homes[event["pid"]],
            attributes={f"splitbench.{key}": args[key] for key in ("server", "cell", "run") if key in args},
            kind=kinds.get(event["cat"], SpanKind.INTERNAL),
            start_time=begin,
            end_time=end,
        )


def _moments(event: Event, epoch: float) -> tuple[int, int]:
    """Begin and end in nanoseconds since 1970."""
    begin = round(epoch * 1e9) + round(event["ts"] * 1e3)
    return begin, begin + round(event["dur"] * 1e3)
