"""Spans as tests look at them: a provider that keeps them, trees of names, and what is wrong with a tree."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Sampler

from flowkit.opentelemetry import OpenTelemetry

__all__ = ["Telemetry", "complaints", "tree"]


class _Open(SpanProcessor):
    """Which spans are open."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []
        self.begun = 0

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self.begun += 1
        self.spans.append(span)

    def on_end(self, span: ReadableSpan) -> None:
        assert span.context is not None
        ended = span.context.span_id
        self.spans = [one for one in self.spans if one.context is None or one.context.span_id != ended]


class Telemetry:
    """An `OpenTelemetry` of one process, and what it has recorded."""

    def __init__(self, *, sampler: Sampler | None = None, **options: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.open = _Open()
        self.provider = TracerProvider(sampler, Resource({}), shutdown_on_exit=False)
        self.provider.add_span_processor(self.open)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meter_provider = MeterProvider([self.reader], Resource({}), shutdown_on_exit=False)
        self.instrument = OpenTelemetry(self.provider, self.meter_provider, **options)
        self.tracer = self.provider.get_tracer("the author's")

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        return self.exporter.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        """Spans of this name, in the order they began."""
        return sorted((span for span in self.spans if span.name == name), key=lambda span: span.start_time or 0)

    def one(self, name: str) -> ReadableSpan:
        [span] = self.named(name)
        return span

    def tree(self) -> list[str]:
        return tree(self.spans)

    def metrics(self) -> dict[str, dict[tuple[Any, ...], Any]]:
        """Each metric's points by the values of their attributes, without the workflow's name."""
        data = self.reader.get_metrics_data()
        found: dict[str, dict[tuple[Any, ...], Any]] = {}
        for of_resource in data.resource_metrics if data is not None else ():
            for scope in of_resource.scope_metrics:
                assert scope.scope.name == "flowkit"
                for metric in scope.metrics:
                    points = found.setdefault(metric.name, {})
                    for point in metric.data.data_points:
                        named = dict(point.attributes or {})
                        assert "flowkit.workflow" in named
                        points[tuple(named.values())] = point
        return found

    def values(self, name: str) -> dict[tuple[Any, ...], Any]:
        """A counter's values, or of how many measurements a histogram consists."""
        return {
            key: point.value if hasattr(point, "value") else point.count
            for key, point in self.metrics().get(name, {}).items()
        }

    def amiss(self) -> list[str]:
        """What is wrong with the spans. Not to be asked while a run is under way."""
        wrong = [f"{span.name} was never ended" for span in self.open.spans]
        if self.open.begun != len(self.spans) + len(self.open.spans):
            wrong.append(f"{self.open.begun} spans were begun, and {len(self.spans)} ended")
        by_id = {span.context.span_id: span for span in self.spans if span.context is not None}
        for span in self.spans:
            wrong += _amiss(span, None if span.parent is None else by_id.get(span.parent.span_id))
        for name in ("flowkit.run.active", "flowkit.step.queued"):
            wrong += [f"{name} of {key} is {value}" for key, value in self.values(name).items() if value]
        return wrong


_ABOVE = {"run": ("attempt", "author"), "step": ("run",), "attempt": ("step",), "wait": ("attempt", "author")}


def _kind(span: ReadableSpan) -> str:
    named = span.attributes or {}
    if "flowkit.workflow" not in named:
        return "author"
    if "flowkit.wait.id" in named:
        return "wait"
    if "flowkit.attempt" in named:
        return "attempt"
    return "step" if "flowkit.step" in named else "run"


def _amiss(span: ReadableSpan, above: ReadableSpan | None) -> Iterator[str]:
    assert span.start_time is not None
    kind, named = _kind(span), span.attributes or {}
    if span.end_time is None or span.end_time < span.start_time:
        yield f"{span.name} ended before it began"
    if kind == "author":
        return
    if named.get("openinference.span.kind") != "CHAIN":
        yield f"{span.name} has no kind"
    if above is None:
        if kind != "run" or (span.parent is not None and not span.parent.is_remote):
            yield f"{span.name} has no parent"
        return
    if span.parent is not None and span.parent.is_remote:
        return  # it goes on after that has ended
    if _kind(above) not in _ABOVE[kind]:
        yield f"{span.name} lies in {above.name}"
    if _kind(above) == "author":
        return  # its times are the system's
    if not (above.start_time or 0) <= span.start_time <= (span.end_time or 0) <= (above.end_time or 0):
        yield f"{span.name} isn't within {above.name}"


def tree(spans: Sequence[ReadableSpan]) -> list[str]:
    """Names, indented, in the order they began; ``!`` where there was an error."""
    ids = {span.context.span_id for span in spans if span.context is not None}
    lines: list[str] = []

    def add(parent: int | None, depth: int) -> None:
        children = [
            span
            for span in spans
            if (None if span.parent is None or span.parent.span_id not in ids else span.parent.span_id) == parent
        ]
        for span in sorted(children, key=lambda span: span.start_time or 0):
            lines.append("  " * depth + span.name + (" !" if span.status.status_code.name == "ERROR" else ""))
            assert span.context is not None
            add(span.context.span_id, depth + 1)

    add(None, 0)
    return lines


@contextmanager
def complaints() -> Iterator[list[str]]:
    """What OpenTelemetry itself finds wrong: spans ended twice or changed after their end, values it can't take."""
    said: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    handler, log = Handler(), logging.getLogger("opentelemetry")
    log.addHandler(handler)
    try:
        yield said
    finally:
        log.removeHandler(handler)
