"""Runs sent by OTLP over HTTP to a receiver on the loopback interface, which reads them as any collector would.

The runs are in virtual time; the exporters, which have threads of their own, the receiver and the network are real.
Nothing waits for time to pass: a flush returns when the receiver has answered.
"""

import gzip
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from spans import complaints
from watched_flows import Approved, Question, make_shop

import flowkit
from flowkit import StartEvent, StepFailed, StopEvent, Workflow, step
from flowkit.opentelemetry import OpenTelemetry
from flowkit.testing import run_virtual

SERVICE = Resource({"service.name": "a test"})


class Receiver:
    """What a collector would have got."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.metrics: list[Any] = []
        self.services: set[str] = set()
        self.scopes: set[str] = set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"  # a connection for each request: no exporter keeps one open

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                answer = receiver.take(self.path, body)
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = False
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=partial(self.server.serve_forever, poll_interval=0.01))

    def take(self, path: str, body: bytes) -> Any:
        if path == "/v1/traces":
            traces = ExportTraceServiceRequest.FromString(body)
            for of_resource in traces.resource_spans:
                self._note(of_resource.resource)
                for scope in of_resource.scope_spans:
                    self.scopes.add(scope.scope.name)
                    self.spans += scope.spans
            return ExportTraceServiceResponse().SerializeToString()
        assert path == "/v1/metrics"
        metrics = ExportMetricsServiceRequest.FromString(body)
        for of_resource in metrics.resource_metrics:
            self._note(of_resource.resource)
            for scope in of_resource.scope_metrics:
                self.metrics += scope.metrics
        return ExportMetricsServiceResponse().SerializeToString()

    def _note(self, resource: Any) -> None:
        self.services |= {one.value.string_value for one in resource.attributes if one.key == "service.name"}

    def named(self, name: str) -> list[Any]:
        return sorted((span for span in self.spans if span.name == name), key=lambda span: span.start_time_unix_nano)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    receiver.thread.start()
    try:
        yield receiver
    finally:
        receiver.server.shutdown()
        receiver.thread.join()
        receiver.server.server_close()


class Sent:
    """An `OpenTelemetry` that sends to a receiver; closed, it has sent everything."""

    def __init__(self, receiver: Receiver) -> None:
        self.traces = TracerProvider(resource=SERVICE, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=f"{receiver.url}/v1/traces")
        self.traces.add_span_processor(BatchSpanProcessor(exporter))
        reader = PeriodicExportingMetricReader(
            OTLPMetricExporter(endpoint=f"{receiver.url}/v1/metrics"), export_interval_millis=float("inf")
        )
        self.meters = MeterProvider([reader], SERVICE, shutdown_on_exit=False)
        self.instrument = OpenTelemetry(self.traces, self.meters)

    def __enter__(self) -> OpenTelemetry:
        return self.instrument

    def __exit__(self, *_: object) -> None:
        assert self.traces.force_flush() and self.meters.force_flush()
        self.traces.shutdown()
        self.meters.shutdown()


def attributes(span: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


def test_a_run_with_everything_arrives(receiver: Receiver, anyio_backend_name: str) -> None:
    async def main(instrument: OpenTelemetry) -> None:
        async with make_shop(instrument).run(run_id="r") as handler:
            events = handler.stream_events()
            async for event in events:
                if isinstance(event, Question):
                    handler.send_event(Approved(event.n), to=events.origin)
            assert await handler == [0, 1, 2]

    with complaints() as said:
        with Sent(receiver) as instrument:
            run_virtual(main, instrument, backend=anyio_backend_name)
    assert said == []
    assert (receiver.services, receiver.scopes) == ({"a test"}, {"flowkit"})
    assert len({span.trace_id for span in receiver.spans}) == 1
    by_id = {span.span_id: span for span in receiver.spans}
    [top] = [span for span in receiver.spans if not span.parent_span_id]
    assert top.name == "Shop"
    assert attributes(top)["openinference.span.kind"] == "CHAIN"
    assert attributes(top)["output.value"] == "[0, 1, 2]"
    above = {
        "plan": "Shop",
        "plan attempt": "plan",
        "work": "Shop",
        "work attempt": "work",
        "wait for Approved": "work attempt",
        "Wrapping": "work attempt",
        "wrap": "Wrapping",
        "wrap attempt": "wrap",
        "gather": "Shop",
        "gather attempt": "gather",
    }
    assert {span.name: by_id[span.parent_span_id].name for span in receiver.spans if span is not top} == above
    for span in receiver.spans:
        assert span.start_time_unix_nano <= span.end_time_unix_nano
        if span is not top:
            parent = by_id[span.parent_span_id]
            assert parent.start_time_unix_nano <= span.start_time_unix_nano
            assert span.end_time_unix_nano <= parent.end_time_unix_nano
        assert all(link.span_id in by_id for link in span.links)
    [failed] = [span for span in receiver.spans if span.status.code == Status.STATUS_CODE_ERROR]
    assert failed.name == "work attempt" and [event.name for event in failed.events] == ["exception"]
    [wait] = receiver.named("wait for Approved")
    assert attributes(wait)["output.value"] == '{"n": 2}'
    ended = {one.name: one for one in receiver.metrics}["flowkit.run.ended"]
    assert sorted(point.as_int for point in ended.sum.data_points) == [1, 1]


class Odd(Workflow):
    @step
    async def work(self, ev: StartEvent) -> StopEvent:
        raise ValueError(ev.text)


def test_what_can_not_be_told_in_utf_8_loses_nothing(receiver: Receiver, anyio_backend_name: str) -> None:
    async def main(instrument: OpenTelemetry) -> None:
        for text in ("\ud800", "fine"):
            with pytest.raises(StepFailed):
                await Odd(instruments=[instrument]).run(text=text)

    with complaints() as said:
        with Sent(receiver) as instrument:
            run_virtual(main, instrument, backend=anyio_backend_name)
    assert said == []
    first, second = receiver.named("work")
    assert attributes(first)["input.value"] == '{"text": "\\ud800"}'
    assert attributes(second)["input.value"] == '{"text": "fine"}'


TRAVELLER = """
import sys

import anyio
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from flowkit import Event, SQLiteStore, StartEvent, StopEvent, Workflow, step
from flowkit.opentelemetry import OpenTelemetry


class There(Event): ...


class Travel(Workflow):
    @step
    async def go(self, ev: StartEvent) -> There:
        return There()

    @step
    async def come_back(self, ev: There) -> StopEvent:
        print("there", flush=True)
        if sys.argv[2] == "stay":
            await anyio.sleep_forever()
        return StopEvent(result="back")


async def main():
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
    travel = Travel(instruments=[OpenTelemetry(provider)])
    print(await travel.run(store=SQLiteStore(sys.argv[1]), run_id="r"))


anyio.run(main)
"""


def environment(receiver: Receiver) -> dict[str, str]:
    unset = ("OPENAI_", "OTEL_", "OPENINFERENCE_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unset)}
    return kept | {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
        "PYTHONIOENCODING": "utf-8",
        "PYTHONPATH": str(Path(flowkit.__file__).parents[1]),
    }


def test_a_run_whose_process_was_killed_goes_on_in_its_trace(receiver: Receiver, tmp_path: Path) -> None:
    program, store = tmp_path / "traveller.py", tmp_path / "runs.db"
    program.write_text(TRAVELLER, encoding="utf-8")
    command, named = [sys.executable, str(program), str(store)], environment(receiver)
    with subprocess.Popen([*command, "stay"], env=named, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None and first.stdout.readline() == "there\n"
        first.kill()
    assert [span.name for span in receiver.spans] == ["go attempt", "go"]
    [began] = receiver.named("go")
    told = subprocess.run([*command, "return"], env=named, capture_output=True, text=True, check=False)
    assert (told.returncode, told.stdout, told.stderr) == (0, "there\nback\n", "")
    assert [span.name for span in receiver.spans[2:]] == ["come_back attempt", "come_back", "Travel"]
    [run] = receiver.named("Travel")
    assert {span.trace_id for span in receiver.spans} == {run.trace_id}
    assert run.parent_span_id == began.parent_span_id != run.span_id  # the run's first span, which was never sent
    assert attributes(run)["flowkit.run.resumed"] is True


README = Path(__file__).parents[1] / "README.md"


@pytest.mark.skipif(not README.exists(), reason="the tests of an installed package have no README")
def test_the_readmes_example_sends_what_the_readme_shows(receiver: Receiver, tmp_path: Path) -> None:
    section = README.read_text(encoding="utf-8").split("## Traces and metrics")[1]
    [code, *_], [shown, *_] = (re.findall(rf"```{kind}\n(.*?)```", section, re.DOTALL) for kind in ("python", "text"))
    program = tmp_path / "traced.py"
    program.write_text(code, encoding="utf-8")
    told = subprocess.run(
        [sys.executable, program], env=environment(receiver), capture_output=True, text=True, check=False
    )
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.startswith("Critique(")

    def tree(parent: bytes, depth: int) -> list[str]:
        children = [span for span in receiver.spans if span.parent_span_id == parent]
        children.sort(key=lambda span: span.start_time_unix_nano)
        return [line for span in children for line in ("  " * depth + span.name, *tree(span.span_id, depth + 1))]

    assert tree(b"", 0) == shown.splitlines()
