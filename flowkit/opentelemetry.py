"""OpenTelemetry: runs as traces and metrics. Needs the extra ``otel`` (opentelemetry-api, and of that nothing else).

**The tree.** A run's span has one for each event that a step was given, which has one for each attempt at it; an
attempt has its waits, the runs nested in it, and whatever the step's own code traces::

    Shop                          the run                     from its start to its end
        charge                    a step and its event        from when it was queued until it is through
            charge attempt        fails, and is made again    while the step's function runs
            charge attempt        linked to the one before    …
                POST /charge      the author's own span
                wait for Approved a ctx.wait_for_event
                Invoice           a nested run
        ship                      …

An attempt is linked to what caused it: the attempt that returned or sent its event, or the one before it that failed.

**Who is whose child.** A run is the child of what was current where ``workflow.run()`` was called, whoever drives it
later: that is looked at there and then (`Instrument.run_called`). While an attempt is at work its span is the current
one, in its task and so in the tasks and threads that it starts, and in nobody else's: context variables do that. What
else the caller's context holds (baggage, a session) is there, too.

**Going on elsewhere.** A run carries its span's W3C ``traceparent`` and ``tracestate``. Where it goes on, in this
process or another, from a store, a checkpoint or ``Context.from_dict``, its new span is a child of the first one, in
the same trace. A nested run that goes on within its parent's trace is its attempt's child, and linked to its first
span. A fork is a trace of its own, linked to the run it was forked from. Of a process that is killed, the spans that
hadn't ended are never sent: what comes after is in the same trace, with a parent that nobody has seen.

**Times** are those of the run's clock, so that spans fit together; the author's own spans have the system's clock,
and may differ from that by less than a millisecond.

**Errors** are on the attempt, on the step where it isn't tried again, and on the run: status ERROR, and an
``exception`` event. That a run or an attempt was cancelled or suspended is no error: status unset, and it says so
(``flowkit.run.outcome``).

**Attributes** are named ``flowkit.…``; those of OpenInference come besides, so that Arize Phoenix and others like it
show chains with their inputs and outputs. Their names and meaning:
https://github.com/Arize-ai/openinference/blob/main/spec/semantic_conventions.md, the variables that hide contents:
…/spec/configuration.md. Contents are the events' fields as JSON, cut off at ``max_length`` characters.

**Metrics** have a workflow, a step, an outcome, an error's class: nothing of which there are ever more. No run ids.

**What it costs.** Where a run's span isn't recording (there is no SDK, or the run was sampled out) no other span is
made for it and nothing is serialised; its context is current in its steps all the same, so that what they call is
sampled out with it.
"""

import json
import os
import traceback
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any
from weakref import WeakKeyDictionary

import attrs

import flowkit
from flowkit.errors import WrongCall, shown
from flowkit.events import Event
from flowkit.instruments import Instrument, ObservedAttempt, ObservedRun, ObservedWait
from flowkit.leaves import is_exactly
from flowkit.plan import Plan
from flowkit.serialization import Codec
from flowkit.snapshot import codec_for

try:
    from opentelemetry import context as contexts
    from opentelemetry import metrics, trace
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, Span, SpanContext, Status, StatusCode
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ModuleNotFoundError as error:
    error.msg = 'flowkit.opentelemetry needs opentelemetry-api, which isn\'t installed: install "flowkit[otel]"'
    raise

__all__ = ["OpenTelemetry"]

MAX_LENGTH = 16_384
"""Characters of a content."""
MOST = 100
"""Of a list of events, so many are shown."""
MAX_MESSAGE = 4_096
"""Characters of an exception's text; of its traceback four times as many."""
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 21600, 86400)
"""Buckets of durations: OpenTelemetry's for HTTP, and on to a day, as people take part."""

_W3C = TraceContextTextMapPropagator()

# What OpenInference's own instrumentations put on every span, where `using_session` and its like have set it; those of
# text are carried, too.
_TEXTS = ("session.id", "user.id")
_SHARED = (*_TEXTS, "metadata", "tag.tags")
_CHAIN = {"openinference.span.kind": "CHAIN"}


@attrs.define(eq=False)
class _Step:
    """The span of what a step was given."""

    span: Span
    context: Context
    failed: SpanContext | None = None  # the attempt that is to be made again


@attrs.define(eq=False)
class _Attempt:
    step: _Step
    links: list[Link]
    span: Span | None = None
    context: Context | None = None  # with its span as the current one


@attrs.define(eq=False)
class _Run:
    """What is kept of a run. It must not refer to what was observed: that is the key it is found by."""

    caller: Context
    context: Context | None = None  # with its span as the current one; None: it has none yet
    span: Span = trace.INVALID_SPAN
    records: bool = False
    shared: dict[str, Any] = attrs.field(factory=dict[str, Any])
    steps: dict[int, _Step] = attrs.field(factory=dict[int, _Step])
    attempts: dict[int, _Attempt] = attrs.field(factory=dict[int, _Attempt])
    waits: dict[tuple[int, str], Span] = attrs.field(factory=dict[tuple[int, str], Span])
    last: tuple[int, SpanContext] | None = None  # the attempt that has just ended, by its invocation


class OpenTelemetry(Instrument):
    """Traces runs and counts them.

    Install it for all runs, ``flowkit.add_instrument(OpenTelemetry())``, or for those of one workflow,
    ``Workflow(instruments=[OpenTelemetry()])``.

    Args:
        tracer_provider: where spans go; by default the global one, also if that is set later.
        meter_provider: where measurements go, likewise.
        contents: whether what events hold is recorded. By default it is, as OpenInference's instrumentations do, but
            for what ``OPENINFERENCE_HIDE_INPUTS=true`` and ``OPENINFERENCE_HIDE_OUTPUTS=true`` hide; these are read
            once, here. Exceptions are recorded in any case.
        max_length: characters of each input and output that are recorded, 1 or more.

    Raises:
        WrongCall: an argument makes no sense.
    """

    def __init__(
        self,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
        *,
        contents: bool | None = None,
        max_length: int = MAX_LENGTH,
    ) -> None:
        if contents is not None and not isinstance(contents, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise WrongCall("OpenTelemetry()", f"got contents={shown(contents)}", "give True, False, or None")
        if not isinstance(max_length, int) or isinstance(max_length, bool) or max_length < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise WrongCall("OpenTelemetry()", f"got max_length={shown(max_length)}", "give a whole number, 1 or more")
        self._shows_inputs = not _is_set("OPENINFERENCE_HIDE_INPUTS") if contents is None else contents
        self._shows_outputs = not _is_set("OPENINFERENCE_HIDE_OUTPUTS") if contents is None else contents
        self._max_length = max_length
        self._tracer = trace.get_tracer("flowkit", flowkit.__version__, tracer_provider)
        self._runs: WeakKeyDictionary[ObservedRun, _Run] = WeakKeyDictionary()
        self._codecs: WeakKeyDictionary[Plan, Codec] = WeakKeyDictionary()
        meter = metrics.get_meter("flowkit", flowkit.__version__, meter_provider)
        self._runs_started = meter.create_counter("flowkit.run.started", "{run}", "Runs that began or went on")
        self._runs_ended = meter.create_counter("flowkit.run.ended", "{run}", "Runs that ended, or were suspended")
        self._runs_active = meter.create_up_down_counter("flowkit.run.active", "{run}", "Runs that are under way here")
        self._run_duration = meter.create_histogram(
            "flowkit.run.duration",
            "s",
            "From where a run began, or went on, to its end here",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        self._attempts = meter.create_counter("flowkit.step.attempts", "{attempt}", "Attempts of steps that ended")
        self._retries = meter.create_counter("flowkit.step.retries", "{attempt}", "Those that are made again")
        self._attempt_duration = meter.create_histogram(
            "flowkit.step.duration",
            "s",
            "How long an attempt of a step took, waits included",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        self._queued = meter.create_up_down_counter(
            "flowkit.step.queued", "{attempt}", "Attempts that wait for a worker of their step"
        )
        self._queue_time = meter.create_histogram(
            "flowkit.step.queue_time",
            "s",
            "How long an attempt waited for a worker of its step",
            explicit_bucket_boundaries_advisory=SECONDS,
        )

    # ----------------------------------------------------------------------------------------------------------- runs

    def run_called(self, run: ObservedRun) -> None:
        self._runs[run] = _Run(contexts.get_current())

    def carry(self, run: ObservedRun) -> Mapping[str, str]:
        known = self._opened(run)
        carrier: dict[str, str] = {}
        _W3C.inject(carrier, known.context)
        if carrier:
            carrier |= {name: known.shared[name] for name in _TEXTS if isinstance(known.shared.get(name), str)}
        return carrier

    def run_started(self, run: ObservedRun) -> None:
        _ = self._opened(run)
        named = {"flowkit.workflow": run.workflow}
        self._runs_started.add(1, {**named, "flowkit.run.resumed": run.resumed})
        self._runs_active.add(1, named)

    def _opened(self, run: ObservedRun) -> _Run:
        """Its span has begun."""
        known = self._runs[run]
        if known.context is not None:
            return known
        parent, links = _parent_of(run, known.caller)
        for name in _TEXTS:
            if name in run.carried and contexts.get_value(name, parent) is None:
                parent = contexts.set_value(name, run.carried[name], parent)
        for name in _SHARED:
            value = _attribute(contexts.get_value(name, parent))
            if value is not None:
                known.shared[name] = value
        attributes: dict[str, Any] = {
            **_CHAIN,
            **known.shared,
            "flowkit.workflow": run.workflow,
            "flowkit.run.id": run.run_id,
            "flowkit.run.resumed": run.resumed,
            "flowkit.run.stored": run.stored,
        }
        if run.plan.where is not None:
            attributes["flowkit.where"] = _cut(run.plan.where, MAX_MESSAGE)
        if run.forked_from is not None:
            attributes["flowkit.run.forked_from"] = run.forked_from
        assert run.began is not None
        known.span = self._tracer.start_span(
            run.workflow, parent, attributes=attributes, links=links, start_time=_ns(run.began)
        )
        known.context = trace.set_span_in_context(known.span, parent)
        known.records = known.span.is_recording()
        if known.records:
            more = {} if run.start_event is None else self._input(run.plan, run.start_event)
            if "metadata" not in known.shared:
                metadata = {"workflow": run.workflow, "run_id": run.run_id}
                more["metadata"] = json.dumps(metadata, ensure_ascii=False)
            known.span.set_attributes(more)
        return known

    def run_ended(self, run: ObservedRun) -> None:
        known = self._runs.pop(run)
        assert run.began is not None and run.ended is not None and run.outcome is not None
        named = {"flowkit.workflow": run.workflow}
        outcome: dict[str, Any] = {**named, "flowkit.run.outcome": run.outcome}
        failed = run.error if run.outcome == "failed" else None
        if failed is not None:
            outcome["error.type"] = _kind(failed)
        self._runs_ended.add(1, outcome)
        self._runs_active.add(-1, named)
        self._run_duration.record(max(0.0, run.ended - run.began), outcome)
        if not known.records:
            return
        at = _ns(run.ended)
        for step in known.steps.values():  # what was to be tried again
            step.span.set_attribute("flowkit.step.outcome", "cancelled")
            step.span.end(at)
        said: dict[str, Any] = {"flowkit.run.outcome": run.outcome}
        if run.error is None:
            said |= self._output(run.plan, run.result)
        elif failed is None:
            said["flowkit.run.reason"] = _cut(_text(run.error), MAX_MESSAGE)
        known.span.set_attributes(said)
        if failed is not None:
            _fail(known.span, failed, at)
        known.span.end(at)

    # ------------------------------------------------------------------------------------------------------- attempts

    def attempt_queued(self, attempt: ObservedAttempt, cause: ObservedAttempt | None) -> None:
        self._queued.add(1, _named(attempt))
        known = self._runs[attempt.run]
        if not known.records:
            return
        step = known.steps.get(attempt.invocation)
        if step is None:
            step = known.steps[attempt.invocation] = self._begun(known, attempt, cause)
        known.attempts[attempt.invocation] = _Attempt(step, _links(known, attempt, cause))

    def _begun(self, known: _Run, attempt: ObservedAttempt, cause: ObservedAttempt | None) -> _Step:
        attributes: dict[str, Any] = {
            **_CHAIN,
            **known.shared,
            **_named(attempt),
            "flowkit.run.id": attempt.run.run_id,
            "flowkit.step.invocation": attempt.invocation,
            "graph.node.id": attempt.step,
        }
        if attempt.where is not None:
            attributes["flowkit.where"] = _cut(attempt.where, MAX_MESSAGE)
        if cause is not None:
            attributes["graph.node.parent_id"] = cause.step
        span = self._tracer.start_span(
            attempt.step, known.context, attributes=attributes, start_time=_ns(attempt.queued)
        )
        if span.is_recording():
            span.set_attributes(self._input(attempt.run.plan, attempt.event))
        return _Step(span, trace.set_span_in_context(span, known.context))

    def around_attempt(self, attempt: ObservedAttempt) -> AbstractContextManager[Any] | None:
        assert attempt.began is not None
        named = _named(attempt)
        self._queued.add(-1, named)
        waited = max(0.0, attempt.began - attempt.queued)
        self._queue_time.record(waited, named)
        known = self._runs[attempt.run]
        if not known.records:
            return _Current(known.context) if known.span.get_span_context().is_valid else None
        mine = known.attempts[attempt.invocation]
        mine.span = self._tracer.start_span(
            f"{attempt.step} attempt",
            mine.step.context,
            attributes={
                **_CHAIN,
                **known.shared,
                **named,
                "flowkit.run.id": attempt.run.run_id,
                "flowkit.attempt": attempt.number + 1,
                "flowkit.step.queue_time": waited,
            },
            links=mine.links,
            start_time=_ns(attempt.began),
        )
        mine.context = trace.set_span_in_context(mine.span, mine.step.context)
        return _Current(mine.context)

    def attempt_ended(self, attempt: ObservedAttempt) -> None:
        assert attempt.ended is not None and attempt.outcome is not None
        named = _named(attempt)
        if attempt.began is None:
            self._queued.add(-1, named)
        else:
            outcome = {**named, "flowkit.step.outcome": attempt.outcome}
            if attempt.error is not None:
                outcome["error.type"] = _kind(attempt.error)
            self._attempts.add(1, outcome)
            self._attempt_duration.record(max(0.0, attempt.ended - attempt.began), outcome)
        if attempt.delay is not None:
            self._retries.add(1, named)
        known = self._runs[attempt.run]
        if not known.records:
            return
        mine = known.attempts.pop(attempt.invocation)
        known.last = None
        at = _ns(attempt.ended)
        if mine.span is not None:
            known.last = attempt.invocation, mine.span.get_span_context()
            said: dict[str, Any] = {"flowkit.step.outcome": attempt.outcome}
            if attempt.delay is not None:
                said["flowkit.retry.delay"] = attempt.delay
            mine.span.set_attributes(said)
            if attempt.error is not None:
                _fail(mine.span, attempt.error, at)
            mine.span.end(at)
        step = mine.step.span
        if attempt.delay is not None:
            mine.step.failed = None if mine.span is None else mine.span.get_span_context()
            step.add_event("retry", {"flowkit.attempt": attempt.number + 1, "flowkit.retry.delay": attempt.delay}, at)
            return
        del known.steps[attempt.invocation]
        ended: dict[str, Any] = {"flowkit.step.outcome": attempt.outcome}
        ended["flowkit.step.attempts"] = attempt.number + (attempt.began is not None)
        if attempt.outcome == "returned" and step.is_recording():
            ended |= self._output(attempt.run.plan, attempt.result)
        step.set_attributes(ended)
        if attempt.error is not None:
            _fail(step, attempt.error, at)
        step.end(at)

    # ---------------------------------------------------------------------------------------------------------- waits

    def wait_opened(self, wait: ObservedWait) -> None:
        attempt = wait.attempt
        known = self._runs[attempt.run]
        mine = known.attempts.get(attempt.invocation)
        if mine is None or mine.context is None or mine.span is None:
            return
        # This is told in the task that waits: a span of the step's own may be around it.
        around = contexts.get_current()
        if trace.get_current_span(around).get_span_context().trace_id != mine.span.get_span_context().trace_id:
            around = mine.context
        attributes: dict[str, Any] = {
            **_CHAIN,
            **known.shared,
            **_named(attempt),
            "flowkit.run.id": attempt.run.run_id,
            "flowkit.wait.id": _cut(wait.waiter_id, MAX_MESSAGE),
            "flowkit.wait.event": wait.event_type.__name__,
        }
        if wait.timeout is not None:
            attributes["flowkit.wait.timeout"] = wait.timeout
        name = f"wait for {wait.event_type.__name__}"
        span = self._tracer.start_span(name, around, attributes=attributes, start_time=_ns(wait.opened))
        if span.is_recording() and wait.question is not None:
            span.set_attributes(self._input(attempt.run.plan, wait.question))
        known.waits[attempt.invocation, wait.waiter_id] = span

    def wait_ended(self, wait: ObservedWait) -> None:
        known = self._runs[wait.attempt.run]
        span = known.waits.pop((wait.attempt.invocation, wait.waiter_id), None)
        if span is None:
            return
        assert wait.ended is not None and wait.outcome is not None
        said: dict[str, Any] = {"flowkit.wait.outcome": wait.outcome}
        if span.is_recording():
            said |= self._output(wait.attempt.run.plan, wait.answer)
        span.set_attributes(said)
        span.end(_ns(wait.ended))

    # ------------------------------------------------------------------------------------------------------- contents

    def _input(self, plan: Plan, value: Any) -> dict[str, Any]:
        """What to say of what goes in."""
        named: dict[str, Any] = {"flowkit.input.type": _type_of(value)}
        if self._shows_inputs:
            named["input.value"], named["input.mime_type"] = self._content(plan, value)
        return named

    def _output(self, plan: Plan, value: Any) -> dict[str, Any]:
        """What to say of what comes out."""
        if value is None:
            return {}
        named: dict[str, Any] = {"flowkit.output.type": _type_of(value)}
        if self._shows_outputs:
            named["output.value"], named["output.mime_type"] = self._content(plan, value)
        return named

    def _content(self, plan: Plan, value: Any) -> tuple[str, str]:
        """A value as text, and the MIME type of that."""
        text: str = value
        kind = "text/plain"
        if type(value) is not str:
            codec = self._codecs.get(plan)
            if codec is None:
                codec = self._codecs[plan] = codec_for(plan).nearly()
            text, kind = json.dumps(self._data(codec, value), ensure_ascii=False), "application/json"
        cut = _cut(text, self._max_length)
        return cut, kind if cut is text else "text/plain"

    def _data(self, codec: Codec, value: Any) -> Any:
        """What steps are given and make, as JSON data to read, not to bring it back."""
        if isinstance(value, Event):
            return {name: self._field(codec, item) for name, item in Event.items(value)}
        if is_exactly(value, list):
            first = value[:MOST]
            data = [self._data(codec, one) if isinstance(one, Event) else self._field(codec, one) for one in first]
            return data if len(value) <= MOST else [*data, f"… {len(value) - MOST} more"]
        return self._field(codec, value)

    def _field(self, codec: Codec, value: Any) -> Any:
        if type(value) is str:
            return value[: self._max_length + 1]
        if isinstance(value, BaseException):
            return f"{type(value).__name__}: {_text(value)}"
        try:
            return _plain(codec.encode(value))
        except Exception:  # noqa: BLE001 - the value may be of any class: what can't be written is described
            return _text(value)


class _Current:
    """A context that is the current one inside."""

    __slots__ = ("_context", "_token")

    def __init__(self, context: Context | None) -> None:
        self._context = context or Context()
        self._token: Any = None

    def __enter__(self) -> None:
        self._token = contexts.attach(self._context)

    def __exit__(self, *_: object) -> None:
        contexts.detach(self._token)


# ------------------------------------------------------------------------------------------------------------- parents


def _parent_of(run: ObservedRun, caller: Context) -> tuple[Context, list[Link]]:
    """What a run's span is a child of, and what it is linked to."""
    around = trace.get_current_span(caller).get_span_context()
    if run.resumed and run.carried:
        context = _W3C.extract(run.carried, caller)
        first = trace.get_current_span(context).get_span_context()
        if run.parent is not None and around.is_valid and first.trace_id == around.trace_id:
            return caller, [Link(first, {"flowkit.link": "resumed"})]
        if first is not around:
            return context, [Link(around, {"flowkit.link": "caller"})] if around.is_valid else []
    if run.forked_from is not None and run.inherited:
        first = trace.get_current_span(_W3C.extract(run.inherited, Context())).get_span_context()
        return caller, [Link(first, {"flowkit.link": "forked from"})] if first.is_valid else []
    return caller, []


def _links(known: _Run, attempt: ObservedAttempt, cause: ObservedAttempt | None) -> list[Link]:
    if cause is None:
        return []
    if cause.invocation == attempt.invocation:
        failed = known.steps[attempt.invocation].failed
        return [] if failed is None else [Link(failed, {"flowkit.link": "retry"})]
    found: SpanContext | None = None
    if cause.outcome is None:  # it has sent the event, and is at work still
        sender = known.attempts.get(cause.invocation)
        found = sender.span.get_span_context() if sender is not None and sender.span is not None else None
    elif known.last is not None and known.last[0] == cause.invocation:
        found = known.last[1]
    return [] if found is None else [Link(found, {"flowkit.link": "cause"})]


# -------------------------------------------------------------------------------------------------------------- values


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)


def _named(attempt: ObservedAttempt) -> dict[str, Any]:
    return {"flowkit.workflow": attempt.run.workflow, "flowkit.step": attempt.step}


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").strip().lower() == "true"


def _attribute(value: Any) -> str | list[str] | None:
    """A text, or a list of texts, as it can be sent; ``None`` for anything else."""
    if isinstance(value, str):
        return _cut(value, MAX_LENGTH)
    if is_exactly(value, list) and all(isinstance(one, str) for one in value):
        return [_cut(one, MAX_LENGTH) for one in value]
    return None


def _type_of(value: Any) -> str:
    if is_exactly(value, list):
        return f"list[{' | '.join(dict.fromkeys(type(one).__name__ for one in value))}]"
    return type(value).__name__


def _kind(error: BaseException) -> str:
    cls = type(error)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - the user's code
        return f"<a {type(value).__name__}, whose text can't be told>"


def _cut(text: str, length: int) -> str:
    """At most so many characters, that can be sent: one that can't would lose a whole batch of spans."""
    cut = text if len(text) <= length else text[: length - 1] + "…"
    return cut if cut.isascii() or _is_sendable(cut) else cut.encode(errors="backslashreplace").decode()[:length]


def _is_sendable(text: str) -> bool:
    try:
        _ = text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _fail(span: Span, error: BaseException, at: int) -> None:
    """Record an error on a span."""
    if not span.is_recording():
        return
    text = _text(error)
    cut = _cut(text, MAX_MESSAGE)
    span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {cut}"))
    span.set_attribute("error.type", _kind(error))
    lines = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    attributes = {"exception.message": cut, "exception.stacktrace": _cut(lines, 4 * MAX_MESSAGE)}
    try:
        span.record_exception(error, attributes, at)
    except Exception:  # noqa: BLE001 - it asks the error for its text
        span.add_event("exception", {"exception.type": _kind(error), **attributes}, at)


def _plain(data: Any) -> Any:
    """What `Codec` wrote, without what only it needs (serialization.py has the forms)."""
    if is_exactly(data, list):
        return [_plain(item) for item in data]
    if not is_exactly(data, dict):
        return data
    if len(data) != 1 or not next(iter(data)).startswith("$"):
        return {name: _plain(item) for name, item in data.items()}
    [(form, held)] = data.items()
    if form == "$obj":
        return {name: _plain(item) for fields in held[1:] for name, item in fields.items()}
    if form == "$dict":
        keys, values = held
        return {str(_plain(key)): _plain(value) for key, value in zip(keys, values, strict=True)}
    if form in ("$enum", "$hook"):
        return _plain(held[1])
    return _plain(held)
