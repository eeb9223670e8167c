"""Requests to models: what they ask for, and the shapes of the answers.

A call is the engine's job for one request to generate, chat or embed, in
Ollama's dialect or OpenAI's.  It is made from the request's JSON, refused as
Ollama refuses it, and turned into a reply when the engine is through with it.
"""

import json
import time

import answers
import faults
from engine import Job
from units import go_duration
from wire import JSON, Reply

INT, FLOAT, BOOL, ARRAY = "integer", "float32", "boolean", "array"
OPTION_TYPES = {
    **dict.fromkeys(("num_keep", "seed", "num_predict", "top_k",
                     "repeat_last_n", "num_ctx", "num_batch", "num_gpu",
                     "main_gpu", "num_thread", "draft_num_predict"), INT),
    **dict.fromkeys(("top_p", "min_p", "typical_p", "temperature",
                     "repeat_penalty", "presence_penalty",
                     "frequency_penalty"), FLOAT),
    "use_mmap": BOOL, "stop": ARRAY,
}
PYTHON_TYPES = {INT: (int, float), FLOAT: (int, float), BOOL: bool,
                ARRAY: list}
GO_TYPES = {
    "model": (str, "string"), "prompt": (str, "string"),
    "system": (str, "string"), "stream": (bool, "bool"),
    "raw": (bool, "bool"), "shift": (bool, "bool"),
    "truncate": (bool, "bool"), "dimensions": (int, "int"),
    "messages": (list, "[]api.Message"),
    "options": (dict, "map[string]interface {}"),
}
LOAD_OPTIONS = ("num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread",
                "draft_num_predict")
MAX_STREAM = 20                 # objects with text in a stream
TOO_LONG = json.dumps({"error": {
    "code": 400, "type": "exceed_context_size_error",
    "message": "the request exceeds the available context size"}})
ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"),
                           check_circular=False)
ESCAPES = (("&", "\\u0026"), ("<", "\\u003c"), (">", "\\u003e"))


class Refused(Exception):
    """The request is answered with an error."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status
        self.message = message


def go_value(value):
    """What Go calls the JSON value that it did not want."""
    if isinstance(value, bool):
        return "bool"
    names = {str: "string", int: "number", float: "number", list: "array",
             dict: "object"}
    return names.get(type(value), "null")


def check_types(body, struct):
    """Refuse JSON values of the wrong type."""
    for name, value in body.items():
        if value is None or name not in GO_TYPES:
            continue
        python, go = GO_TYPES[name]
        if not isinstance(value, python) or (
                python is int and isinstance(value, bool)):
            raise Refused(400, f"json: cannot unmarshal {go_value(value)} "
                          f"into Go struct field {struct}.{name} of type {go}")


def check_options(options):
    """Refuse options of the wrong type; those unknown are no error."""
    for name, value in options.items():
        kind = OPTION_TYPES.get(name)
        if kind is None or value is None:
            continue
        if not isinstance(value, PYTHON_TYPES[kind]) or (
                kind in (INT, FLOAT) and isinstance(value, bool)):
            raise Refused(500, f'option "{name}" must be of type {kind}')


def keep_alive_of(value):
    """Seconds that a model stays, negative for ever, None for the default."""
    if value is None:
        return None
    if isinstance(value, str):
        try:
            return go_duration(value)
        except ValueError as error:
            raise Refused(400, str(error)) from None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Refused(400, f"Unsupported type: '{go_value(value)}'")
    return float(value)


def load_key(body, options, model):
    """What a model must be loaded with for this request."""
    context = options.get("num_ctx") or model.context
    return (min(context, model.context), body.get("shift") is not False,
            *map(options.get, LOAD_OPTIONS))


def text_of(content):
    """The text of a message, in either dialect."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(str(p.get("text", "")) for p in content
                         if isinstance(p, dict))
    return ""


def inputs_of(value):
    """The texts to embed; refuses what is none."""
    if value is None or value == "":
        return []
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not all(
            isinstance(v, str) for v in value):
        raise Refused(400, "invalid input type")
    return value


def prompt_of(body):
    """All the text of a request, whatever it is: what it is known by."""
    parts = []
    for name, value in body.items():
        if name in ("system", "prompt", "input") and isinstance(value, str):
            parts.append(value)
        elif name == "input" and isinstance(value, list):
            parts += [v for v in value if isinstance(v, str)]
        elif name == "messages" and isinstance(value, list):
            parts += [text_of(message.get("content")) for message in value
                      if isinstance(message, dict)]
    return "\n".join(filter(None, parts))


class Stamps:
    """Times as Go writes them; the seconds are formatted once."""

    second = 0
    text = ""

    @classmethod
    def now(cls):
        """The time in UTC."""
        second, nanos = divmod(time.time_ns(), 1000000000)
        if second != cls.second:
            cls.second = second
            cls.text = cls.of(second)
        return f"{cls.text}.{nanos:09}Z"

    @staticmethod
    def of(second):
        """A time without its fraction."""
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def dump(value):
    """JSON as Go writes it: UTF-8, but no <, > and &."""
    text = ENCODER.encode(value)
    for char, escape in ESCAPES:
        if char in text:
            text = text.replace(char, escape)
    return text.encode("utf-8", "replace")


class Call(Job):
    """A request to a model."""

    stream_type = "application/x-ndjson"

    def __init__(self, app, request, model, body):
        super().__init__(request, model)
        self.app = app
        self.body = body
        self.name = body["model"]
        self.fault = request.fault
        self.options = body.get("options") or {}
        check_options(self.options)
        self.keep_alive = keep_alive_of(body.get("keep_alive"))
        self.key = load_key(body, self.options, model)
        self.prompt_tokens = 0
        self.output_tokens = 0
        self.streaming = False
        self.finished_at = None

    def failed(self, status, message):
        """The engine cannot run it."""
        self.app.send_error(self.request, status, message)

    def struck(self, name):
        """Whether that fault has struck it."""
        return self.fault is not None and self.fault.name == name

    def send(self, body, content_type=JSON):
        """Send the reply, as its fault wants it."""
        reply = Reply(200, body, content_type)
        if content_type != JSON:
            reply.framing = "chunked"
        if self.fault is not None:
            faults.strike_reply(self.fault, reply)
        self.request.conn.send(self.request, reply)

    def check_length(self, text, message):
        """Count a text's tokens; refuse or cut it if there are too many."""
        count = 1 + len(text) // 4
        context = self.key[0]
        if count >= context:
            if self.body.get("truncate") is False:
                raise Refused(400, message)
            count = context - context // 2
        self.prompt_tokens += count

    def times(self):
        """Nanoseconds of the whole, of loading, and of running."""
        arrived = self.request.arrived
        now = self.finished_at = time.monotonic()
        whole = now - arrived
        loading = self.loaded_at - arrived
        running = now - self.started_at if self.started_at else 0
        return [round(x * 1e9) for x in (whole, loading, running)]


class Chat(Call):
    """POST /api/chat."""

    verb = "chat"
    struct = "ChatRequest"

    def __init__(self, app, request, model, body):
        super().__init__(app, request, model, body)
        self.stream = body.get("stream") is not False
        self.asked = self.question()
        self.format = body.get("format")
        self.refuse()
        self.load_only = not self.asked
        self.shown = []         # what is to be streamed yet
        self.begun = False
        if not self.load_only:
            self.check_length(request.prompt, TOO_LONG)

    def question(self):
        """What the answer depends on."""
        messages = self.body.get("messages") or []
        if not messages:
            return None
        last = messages[-1]
        return text_of(last.get("content")) if isinstance(last, dict) else ""

    def refuse(self):
        """Refuse what the model cannot do."""
        think = self.body.get("think")
        if think and not self.model.thinking:
            raise Refused(400, f'"{self.name}" does not support thinking')
        if self.model.embed:
            raise Refused(400, f'"{self.name}" does not support {self.verb}')
        if self.format not in (None, "", "json") and not isinstance(
                self.format, dict):
            wanted = '"json" or a valid JSON Schema object'
            raise Refused(500, f"invalid format: {json.dumps(self.format)}; "
                          f"expected {wanted}")

    # The answer

    def answer(self):
        """The text and why it ends."""
        text = answers.answer_in(self.request.prompt)
        if text is None:
            text = self.app.settings.answer
        if text is None:
            answerer = answers.Answerer(self.asked)
            if self.format:
                text = answerer.json(self.format)
            else:
                text = answerer.text()
        elif text == "echo":
            text = self.asked
        return self.limit(text)

    def limit(self, text):
        """A text as the options and a fault allow it."""
        for stop in self.options.get("stop") or ():
            if isinstance(stop, str) and stop:
                text = text.partition(stop)[0]
        pieces = answers.tokens(text)
        limit = int(self.options.get("num_predict") or -1)
        reason = "stop"
        if 0 < limit < len(pieces):
            pieces = pieces[:limit]
            text = "".join(pieces)
            reason = "length"
        self.output_tokens = len(pieces)
        if self.fault is not None:
            text = faults.strike_text(self.fault, text)
            reason = "length" if self.struck("length") else reason
        return text, reason

    def thoughts(self):
        """What the model thinks before it answers, or None."""
        if self.model.thinking and self.body.get("think") is not False:
            self.output_tokens *= 2
            return "Let me see: " + self.asked
        return None

    # The reply

    def done(self):
        """The engine is through with it: reply."""
        if self.load_only:
            self.send_object(self.final({"done_reason": "load"}, ""))
        elif self.struck("500"):
            self.failed(500, faults.CRASHED)
        elif self.begun:
            self.end_stream()
        else:
            text, reason = self.answer()
            if self.stream and self.stream_ok():
                self.stream_all(text, reason)
            else:
                self.send_object(self.final(self.ending(reason), text))

    def ending(self, reason):
        """The fields that say that, and how, it ended."""
        thoughts = self.thoughts()
        fields = {"thinking": thoughts} if thoughts else {}
        if self.struck("not_done"):
            return fields
        whole, loading, running = self.times()
        fields.update({
            "done_reason": reason,
            "total_duration": whole,
            "load_duration": loading,
            "prompt_eval_count": self.prompt_tokens,
            "prompt_eval_duration": running // 5,
            "eval_count": self.output_tokens,
            "eval_duration": running - running // 5,
        })
        return fields

    def final(self, fields, text):
        """The last object, or the only one."""
        thinking = fields.pop("thinking", None)
        made = {"model": self.name, "created_at": Stamps.now()}
        made.update(self.said(text, thinking))
        made["done"] = "done_reason" in fields
        made.update((k, v) for k, v in fields.items() if v)
        return made

    def said(self, text, thinking=None):
        """The field with the text."""
        message = {"role": "assistant", "content": text}
        if thinking:
            message["thinking"] = thinking
        return {"message": message}

    def send_object(self, value):
        """Send one object."""
        self.send(dump(value))

    # Streams

    def stream_ok(self):
        """Whether a stream is what this request gets."""
        return True

    def piece(self, text):
        """One object of a stream."""
        return {"model": self.name, "created_at": Stamps.now(),
                **self.said(text), "done": False}

    def line(self, value):
        """An object as it stands in a stream."""
        return dump(value) + b"\n"

    def last_lines(self, reason):
        """How a stream ends."""
        return self.line(self.final(self.ending(reason), ""))

    def split(self, text):
        """A text in the pieces that are streamed."""
        parts = answers.tokens(text)
        step = -(-len(parts) // MAX_STREAM) or 1
        return ["".join(parts[i:i + step]) for i in range(0, len(parts), step)]

    def stream_all(self, text, reason):
        """The whole stream at once."""
        lines = [self.line(self.piece(part)) for part in self.split(text)]
        self.send(b"".join(lines) + self.last_lines(reason), self.stream_type)

    def started(self):
        """Begin to stream, if there is time to and nothing to go wrong."""
        if not self.stream or self.service <= 0 or self.fault is not None:
            return
        self.text, self.reason = self.answer()
        self.shown = self.split(self.text)
        self.step_time = self.service / (len(self.shown) + 1)
        self.app.loop.call_later(self.step_time, self.step)

    def step(self):
        """Stream the next piece."""
        if self.request.gone or self.request.done or not self.shown:
            return
        if not self.begun:
            self.begun = True
            self.request.conn.start_stream(
                self.request, Reply(200, b"", self.stream_type))
        part = self.shown.pop(0)
        self.request.conn.stream(self.line(self.piece(part)))
        if self.shown:
            self.app.loop.call_later(self.step_time, self.step)

    def end_stream(self):
        """Stream what is left and the end."""
        conn = self.request.conn
        lines = [self.line(self.piece(part)) for part in self.shown]
        self.shown = []
        conn.stream(b"".join(lines) + self.last_lines(self.reason))
        conn.stream(b"")
        conn.end(self.request)


class Generate(Chat):
    """POST /api/generate."""

    verb = "generate"
    struct = "GenerateRequest"

    def question(self):
        """What the answer depends on."""
        return self.body.get("prompt") or None

    def refuse(self):
        """Refuse what the model cannot do."""
        body = self.body
        if body.get("raw") and (body.get("system") or body.get("template")
                                or body.get("context")):
            raise Refused(400, "raw mode does not support template, system, "
                          "or context")
        super().refuse()

    def said(self, text, thinking=None):
        """The field with the text."""
        said = {"response": text}
        if thinking:
            said["thinking"] = thinking
        return said

    def ending(self, reason):
        """As in a chat, with the conversation's tokens."""
        fields = super().ending(reason)
        if "done_reason" in fields and not self.body.get("raw"):
            count = self.prompt_tokens + self.output_tokens
            fields["context"] = list(range(1, count + 1))
        return fields


class Embed(Call):
    """POST /api/embed."""

    struct = "EmbedRequest"

    def __init__(self, app, request, model, body):
        super().__init__(app, request, model, body)
        self.inputs = inputs_of(body.get("input"))
        self.load_only = not self.inputs
        for text in self.inputs:
            self.check_length(
                text, "the input length exceeds the context length")

    def done(self):
        """The engine is through with it: reply."""
        if self.struck("500"):
            self.failed(400, faults.CRASHED)  # so does Ollama
        elif self.struck("nan"):
            self.failed(400, "embedding contains NaN or Inf values")
        else:
            self.send(dump(self.shape(self.vectors())))

    def vectors(self):
        """The embeddings."""
        dims = self.model.dims
        wanted = self.body.get("dimensions") or 0
        made = [answers.embedding(text, dims) for text in self.inputs]
        if 0 < wanted < dims:
            made = [answers.unit(v[:wanted]) for v in made]
        if self.fault is not None and made:
            made = faults.strike_vectors(self.fault, made)
        return made

    def shape(self, vectors):
        """The object to reply with."""
        made = {"model": self.name, "embeddings": vectors}
        if self.inputs:
            whole, loading, _ = self.times()
            made["total_duration"] = whole
            made["load_duration"] = loading
            made["prompt_eval_count"] = self.prompt_tokens
        return made
