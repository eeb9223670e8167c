"""Requests to models in OpenAI's dialect.

Ollama turns them into requests of its own and the answers back, and so does
this; the errors take OpenAI's shape in routes.py.
"""

import time

from calls import Chat, Embed, dump


def from_openai(body):
    """A chat in OpenAI's dialect as one in Ollama's."""
    options = {k: body[k] for k in ("temperature", "seed", "top_p",
                                    "presence_penalty", "frequency_penalty")
               if body.get(k) is not None}
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    if limit is not None:
        options["num_predict"] = limit
    stop = body.get("stop")
    if stop:
        options["stop"] = [stop] if isinstance(stop, str) else stop
    made = {"model": body["model"], "messages": body["messages"],
            "options": options}
    wanted = body.get("response_format") or {}
    if wanted.get("type") == "json_object":
        made["format"] = "json"
    elif wanted.get("type") == "json_schema":
        made["format"] = (wanted.get("json_schema") or {}).get("schema")
    return made


class OpenAIChat(Chat):
    """POST /v1/chat/completions."""

    stream_type = "text/event-stream"

    def __init__(self, app, request, model, body):
        super().__init__(app, request, model, from_openai(body))
        self.stream = body.get("stream") is True
        self.id = f"chatcmpl-{request.seq}"

    def shape(self, kind, choice):
        """What is common to an answer and the pieces of a stream."""
        return {"id": self.id, "object": kind, "created": int(time.time()),
                "model": self.name, "system_fingerprint": "fp_ollama",
                "choices": [{"index": 0, **choice}]}

    def final(self, fields, text):
        """The only object."""
        message = {"role": "assistant", "content": text}
        if fields.get("thinking"):
            message["reasoning"] = fields["thinking"]
        made = self.shape("chat.completion", {
            "message": message, "finish_reason": fields.get("done_reason")})
        used, given = self.prompt_tokens, self.output_tokens
        made["usage"] = {"prompt_tokens": used, "completion_tokens": given,
                         "total_tokens": used + given}
        return made

    def piece(self, text):
        """One object of a stream."""
        return self.shape("chat.completion.chunk", {
            "delta": {"role": "assistant", "content": text},
            "finish_reason": None})

    def line(self, value):
        """An object as it stands in a stream."""
        return b"data: " + dump(value) + b"\n\n"

    def last_lines(self, reason):
        """How a stream ends."""
        value = self.shape("chat.completion.chunk",
                           {"delta": {}, "finish_reason": reason})
        return self.line(value) + b"data: [DONE]\n\n"


class OpenAIEmbed(Embed):
    """POST /v1/embeddings."""

    def shape(self, vectors):
        """The object to reply with."""
        data = [{"object": "embedding", "embedding": v, "index": i}
                for i, v in enumerate(vectors)]
        return {"object": "list", "data": data, "model": self.name,
                "usage": {"prompt_tokens": self.prompt_tokens,
                          "total_tokens": self.prompt_tokens}}
