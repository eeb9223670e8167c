"""The ways to fail.

A fault is named by --fault, by /_control or by the prompt itself, as
NAME[:ARGUMENT[,CONDITION...]].  It acts at one stage of a request:

early   instead of an answer, before any queue:
    400 401 403 404 429 502 503   that status; the argument of 429 and 503 is
            their Retry-After.  Any other status too, with Ollama's body
    refuse:STATUS                 that status (403), repeating the prompt
    html502 (also 502)            an HTML page, as a proxy has it
    reset   RST before any byte       close     FIN before any byte
    stale   as close, but only on a connection that has served a request
            before; a new one is answered
    refused:TIME   drop every connection and listen again after TIME (1s)
    restart:TIME   the same, and all models are unloaded (500ms)
    redirect:URL   302 (to file:///etc/passwd)
model   while the model works on it:
    slow:TIME      that service time
    hold           never answered, until {"release": true} at /_control
    stall          the same
    load:TIME      loads again first, and for that long (5s)
    load_fail      loads again first, and that fails
    500            that status after the service time; for embeddings it
            is 400 with the same text, as in Ollama
answer  what is said:
    not_done  length  empty  nul (escaped)  raw_nul  bad_utf8  surrogate
    not_json  bad_schema (values of another type)  bad_enum (other texts)
    missing_key  extra_key  deep_answer:N   (10000 arrays, as the text)
vectors of an embedding:
    nan (as Ollama reports it)  raw_nan  wrong_dim  ragged  missing  extra
    zero_dim
wire    how it is sent:
    reset_mid  short[:N]  drip[:TIME]  drip_all[:TIME]  stall_body
    wrong_type[:TYPE]  two_objects  trailing  huge[:SIZE]  deep[:N]
    no_length  http10  chunked  close_after  cut_stream  stream_error
    big_head[:SIZE]  array  not_object
The conditions: once, first=N, skip=N (those before), every=N, delay=TIME
(early ones wait so long first), route=PATH (* for all; without it only the
routes that use a model), model=NAME, match=REGEX (in the prompt; last).
Requests without a prompt, which only load, are struck by early faults and
those that load; the others leave them alone and do not count them.
"""

import json
import re
from collections import Counter

from answers import markers
from units import seconds, size
from wire import MARK, Reply

BAD_GATEWAY = (b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n"
               b"<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n"
               b"<hr><center>nginx/1.22.1</center>\r\n</body>\r\n</html>\r\n")
CRASHED = ("model runner has unexpectedly stopped, this may be due to "
           "resource limitations or an internal error, check ollama server "
           "logs for details")
MESSAGES = {
    400: "the prompt is longer than the context length currently available "
         "to the model; shorten the prompt, adjust the context length in "
         "settings, or use a model with a longer context length",
    401: "unauthorized",
    403: "access to this model is not allowed",
    404: "model '%s' not found",
    429: "too many requests, please slow down",
    500: CRASHED,
    503: "server busy, please try again.  maximum pending requests exceeded",
}
LOAD_FAILED = "llama-server process has terminated: exit status 1"

EARLY = {"html502", "refuse", "reset", "close", "stale", "refused", "restart",
         "redirect"}
LOADS = {"load", "load_fail"}
MODEL = {"slow", "hold", "stall", "load", "load_fail", "500"}
PLACED = {"nul": b"\\u0000", "raw_nul": b"\0", "bad_utf8": b"\xff\xfe",
          "surrogate": b"\\ud800"}
MISFITS = {"bad_schema", "bad_enum", "missing_key", "extra_key"}
ANSWER = {"not_done", "length", "empty", "not_json", "deep_answer",
          *MISFITS, *PLACED}
VECTORS = {"nan", "raw_nan", "wrong_dim", "ragged", "missing", "extra",
           "zero_dim"}


class Fault:
    """One fault and when it strikes."""

    def __init__(self, spec):
        match = re.fullmatch(r"\s*([\w-]+)(?:[:\s]\s*(.*))?", spec, re.DOTALL)
        if not match:
            raise ValueError(f'invalid fault "{spec}"')
        self.spec = spec
        self.name = match[1].replace("-", "_")
        self.arg = None
        self.skip = 0
        self.first = None
        self.every = 1
        self.delay = 0.0
        self.route = None
        self.model = None
        self.match = None
        self.seen = 0
        self.struck = 0
        self.parse(match[2] or "")
        self.stage = stage_of(self.name)
        self.loads = self.stage == "early" or self.name in LOADS

    def parse(self, text):
        """Read the argument and the conditions."""
        text, found, regex = text.partition("match=")
        if found:
            self.match = re.compile(regex, re.DOTALL)
        for part in re.split(r"[,\s]+", text):
            name, found, value = part.partition("=")
            if name in ("skip", "first", "every") and found:
                setattr(self, name, int(value))
            elif name in ("route", "model") and found:
                setattr(self, name, value)
            elif name == "delay" and found:
                self.delay = seconds(value)
            elif part == "once":
                self.first = 1
            elif part:
                self.arg = part

    def concerns(self, request, model, prompt):
        """Whether this is a request for it, counted or not."""
        path = request.head.path
        if self.route is None:
            if not request.model_route:
                return False
        elif self.route not in ("*", path):
            return False
        if request.model_route and not prompt and not self.loads:
            return False
        if self.model is not None and self.model != model:
            return False
        if self.match is not None and not self.match.search(prompt):
            return False
        return self.name != "stale" or request.conn.served > 0

    def due(self, seen):
        """Whether it strikes the request that is the seen-th for it."""
        seen -= self.skip
        if seen <= 0 or seen % self.every:
            return False
        return self.first is None or seen // self.every <= self.first

    def strikes(self):
        """Count one more request; whether it strikes."""
        self.seen += 1
        due = self.due(self.seen)
        self.struck += due
        return due

    def duration(self, default):
        """Its argument as seconds."""
        return seconds(self.arg if self.arg is not None else default)

    def number(self, default):
        """Its argument as a number or size."""
        return size(self.arg if self.arg is not None else default)

    def report(self):
        """For /_control."""
        return {"fault": self.spec, "seen": self.seen, "struck": self.struck}


class Faults:
    """All faults that are set."""

    def __init__(self):
        self.rules = []
        self.marked = Counter()  # (prompt's hash, marker) seen so often

    def add(self, spec):
        """Set one more fault; raises ValueError."""
        if isinstance(spec, dict):
            spec = spec_of(spec)
        self.rules.append(Fault(spec))

    def clear(self):
        """Forget all faults."""
        self.rules.clear()
        self.marked.clear()

    def pick(self, request, model, prompt):
        """The fault that strikes a request, or None."""
        if "[[fault:" in prompt:
            fault = self.pick_marked(request, prompt)
            if fault is not None:
                return fault
        for fault in self.rules:
            if fault.concerns(request, model, prompt) and fault.strikes():
                return fault
        return None

    def pick_marked(self, request, prompt):
        """The fault that the prompt asks for, or None."""
        for kind, spec, _, _ in markers(prompt):
            if kind != "fault":
                continue
            try:
                fault = Fault(spec)
            except ValueError:
                continue
            key = (request.prompt_hash, spec)
            if not fault.concerns(request, fault.model, prompt):
                continue
            self.marked[key] += 1
            if fault.due(self.marked[key]):
                return fault
        return None


def spec_of(parts):
    """A fault's text, from its parts: name, arg and the conditions."""
    parts = dict(parts)
    words = [str(parts.pop("arg"))] if "arg" in parts else []
    name = parts.pop("name")
    regex = parts.pop("match", None)
    if parts.pop("once", False):
        words.append("once")
    words += [f"{k}={v}" for k, v in parts.items()]
    if regex is not None:
        words.append(f"match={regex}")
    return f"{name}:{','.join(words)}"


def stage_of(name):
    """The stage at which a fault acts; raises ValueError."""
    if name in MODEL:
        return "model"
    if name in EARLY or re.fullmatch(r"[1-9]\d\d", name):
        return "early"
    if name in ANSWER:
        return "answer"
    if name in VECTORS:
        return "vectors"
    if name in WIRE:
        return "wire"
    raise ValueError(f'there is no fault "{name}"')


# Early


def strike_early(app, request, fault, model):
    """Answer a request with its fault, or drop it."""
    if fault.delay and not request.gone:
        app.loop.call_later(fault.delay, strike_now, app, request, fault,
                            model)
    else:
        strike_now(app, request, fault, model)


def strike_now(app, request, fault, model):
    """The same, without a delay."""
    if request.gone:
        return
    conn = request.conn
    request.status = fault.name
    if fault.name == "reset":
        conn.end(request, "reset")
    elif fault.name in ("close", "stale"):
        conn.end(request, "close")
    elif fault.name in ("refused", "restart"):
        conn.end(request, "reset")
        default = "1s" if fault.name == "refused" else "500ms"
        app.go_away(fault.duration(default), fault.name == "restart")
    elif fault.name in ("html502", "502"):
        conn.send(request, Reply(502, BAD_GATEWAY, "text/html"))
    elif fault.name == "refuse":
        app.send_error(request, int(fault.arg or 403),
                       f"this text is not allowed: {request.prompt}")
    elif fault.name == "redirect":
        reply = Reply(302, b"", "text/html; charset=utf-8")
        reply.add_header("Location", fault.arg or "file:///etc/passwd")
        conn.send(request, reply)
    else:
        strike_status(app, request, fault, model)


def strike_status(app, request, fault, model):
    """Answer with a status and Ollama's words for it."""
    status = int(fault.name)
    message = MESSAGES.get(status, f"status {status}")
    if "%s" in message:
        message = message % model
    reply = app.error_reply(request, status, message)
    if fault.arg is not None:
        reply.add_header("Retry-After", fault.arg)
    elif status == 429:
        reply.add_header("Retry-After", "1")
    request.conn.send(request, reply)


# Model


def strike_other(app, request, fault, answer):
    """Strike a request that needs no model with a fault for those that do;
    answer() answers it."""
    if fault.name == "slow":
        app.loop.call_later(fault.duration("1s"), lambda: (
            request.gone or answer()))
    elif fault.name == "500":
        app.send_error(request, 500, MESSAGES[500])
    elif fault.name in LOADS:
        answer()


def strike_model(fault, job):
    """Change what the engine will do for a request."""
    if fault.name == "slow":
        job.service = fault.duration("1s")
    elif fault.name in ("hold", "stall"):
        job.hold = True
    elif fault.name == "load":
        job.reload = True
        job.load_time = fault.duration("5s")
    elif fault.name == "load_fail":
        job.reload = True
        job.load_error = LOAD_FAILED


# Answer


def strike_text(fault, text):
    """The text of an answer that a fault has changed."""
    if fault.name in PLACED:
        return text[:3] + MARK.decode() + text[3:]
    if fault.name == "empty":
        return ""
    if fault.name == "length":
        return text[:max(1, len(text) // 2)]
    if fault.name == "not_json":
        return "Sure! Here is what you asked for: " + text
    if fault.name == "deep_answer":
        depth = fault.number(10000)
        return "[" * depth + "]" * depth
    if fault.name in MISFITS:
        return misfit(fault.name, text)
    return text


def misfit(name, text):
    """An answer in JSON, changed so that it does not fit its schema."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    if not isinstance(value, dict) or not value:
        value = {"not": "this"}
    elif name == "bad_schema":
        value = {key: {"not": "this"} for key in value}
    elif name == "bad_enum":
        value = {key: "none of these" if isinstance(old, str) else old
                 for key, old in value.items()}
    elif name == "missing_key":
        del value[next(iter(value))]
    else:
        value["nobody_asked"] = 1
    return json.dumps(value)


# Vectors


def strike_vectors(fault, vectors):
    """Embeddings that a fault has changed."""
    if fault.name == "wrong_dim":
        return [v + [0.0] for v in vectors]
    if fault.name == "ragged":
        return vectors[:-1] + [vectors[-1] + [0.0]]
    if fault.name == "missing":
        return vectors[:-1]
    if fault.name == "extra":
        return vectors + vectors[-1:]
    if fault.name == "zero_dim":
        return [[] for _ in vectors]
    if fault.name == "raw_nan":
        return [[float("nan")] + v[1:] for v in vectors]
    return vectors


# Wire


def reset_mid(reply, fault):
    """Half of the body, then RST."""
    del fault
    reply.trim = len(reply.body) // 2
    reply.end = "reset"


def short(reply, fault):
    """A body that claims to be longer, then FIN."""
    reply.length = len(reply.body) + fault.number(100)
    reply.end = "close"


def drip(reply, fault):
    """The body byte by byte."""
    reply.interval = fault.duration("100ms")


def drip_all(reply, fault):
    """The head byte by byte too; it is sent with the body's framing."""
    drip(reply, fault)
    reply.slow_head = True


def stall_body(reply, fault):
    """The head, and after a long time the body."""
    reply.wait = fault.duration("1h")


def wrong_type(reply, fault):
    """Another Content-Type."""
    reply.type = fault.arg or "text/plain; charset=utf-8"


def two_objects(reply, fault):
    """The object twice."""
    del fault
    reply.body += reply.body


def trailing(reply, fault):
    """Something after the object."""
    del fault
    reply.body += b"\nand that is all"


def huge(reply, fault):
    """A body with a very long string in it."""
    reply.body = b'{"padding":"' + MARK + b'",' + reply.body[1:]
    reply.fill = fault.number("64MB")


def deep(reply, fault):
    """An object with a very deep array in it."""
    depth = fault.number(10000)
    reply.body = b'{"nested":%b%b,' % (b"[" * depth, b"]" * depth) \
        + reply.body[1:]


def no_length(reply, fault):
    """Neither length nor chunks: the body ends with the connection."""
    del fault
    reply.framing = "close"
    reply.end = "close"


def http10(reply, fault):
    """The same, and as HTTP/1.0."""
    no_length(reply, fault)
    reply.version = "1.0"


def chunked(reply, fault):
    """The body as a chunk."""
    del fault
    reply.framing = "chunked"


def close_after(reply, fault):
    """Close after the answer, without having said so."""
    del fault
    reply.end = "close"


def cut_stream(reply, fault):
    """A stream, or a body, that ends before its last object."""
    del fault
    lines = reply.body.splitlines(True)
    reply.body = b"".join(lines[:-1])


def stream_error(reply, fault):
    """An error instead of the last object, under status 200."""
    cut_stream(reply, fault)
    message = f"an error was encountered while running the model: {CRASHED}"
    reply.body += json.dumps({"error": message}).encode() + b"\n"


def big_head(reply, fault):
    """A very long header."""
    reply.add_header("X-Padding", "a" * fault.number("1MB"))


def array_of(reply, fault):
    """The object in an array."""
    del fault
    reply.body = b"[" + reply.body + b"]"


def not_object(reply, fault):
    """JSON, but only a string."""
    del fault
    reply.body = b'"ok"'


WIRE = {
    "reset_mid": reset_mid, "short": short, "drip": drip,
    "drip_all": drip_all, "stall_body": stall_body, "wrong_type": wrong_type,
    "two_objects": two_objects, "trailing": trailing, "huge": huge,
    "deep": deep, "no_length": no_length, "http10": http10,
    "chunked": chunked, "close_after": close_after, "cut_stream": cut_stream,
    "stream_error": stream_error, "big_head": big_head, "array": array_of,
    "not_object": not_object,
}


def strike_reply(fault, reply):
    """Change how a reply is sent."""
    if fault.name in PLACED:
        reply.body = reply.body.replace(MARK, PLACED[fault.name])
    elif fault.stage == "wire":
        WIRE[fault.name](reply, fault)
