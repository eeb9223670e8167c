"""The routes: which there are, and what each does with a request."""

import json

import calls
import faults
import openai_calls
from calls import Refused, Stamps, dump
from wire import TEXT, Reply

VERSION = "0.33.0"
SIZE = 2019393189
MODIFIED = "2026-01-01T00:00:00Z"


def details_of(model):
    """What Ollama tells of a model's make."""
    family = "bert" if model.embed else "llama"
    return {"parent_model": "", "format": "gguf", "family": family,
            "families": [family], "parameter_size": "0",
            "quantization_level": "F16"}


def root(app, request, body):
    """GET /"""
    del app, body
    request.conn.send(request, Reply(200, b"Ollama is running", TEXT))


def version(app, request, body):
    """GET /api/version"""
    del body
    app.send_json(request, {"version": VERSION})


def tags(app, request, body):
    """GET /api/tags"""
    del body
    app.send_json(request, {"models": [
        {"name": m.name, "model": m.name, "modified_at": MODIFIED,
         "size": SIZE, "digest": m.digest, "details": details_of(m),
         "capabilities": m.capabilities}
        for m in app.engine.models.values()]})


def processes(app, request, body):
    """GET /api/ps"""
    del body
    found = []
    for runner in app.engine.runners.values():
        model = runner.model
        expires = app.engine.expires_at(runner)
        found.append({
            "name": model.name, "model": model.name, "size": SIZE,
            "digest": model.digest, "details": details_of(model),
            "expires_at": Stamps.of(expires) + "Z", "size_vram": 0,
            "context_length": runner.key[0]})
    found.sort(key=lambda entry: entry["expires_at"], reverse=True)
    app.send_json(request, {"models": found})


def show(app, request, body):
    """POST /api/show"""
    name = body.get("model") or body.get("name")
    if not isinstance(name, str) or not name:
        raise Refused(400, "model is required")
    model = app.engine.find_model(name)
    if model is None:
        raise Refused(404, f"model '{name}' not found")
    family = details_of(model)["family"]
    app.send_json(request, {
        "modelfile": f"FROM {model.name}\n",
        "parameters": "temperature 0.8",
        "template": "{{ .Prompt }}",
        "details": details_of(model),
        "model_info": {
            "general.architecture": family,
            "general.parameter_count": 0,
            f"{family}.context_length": model.context,
            f"{family}.embedding_length": model.dims},
        "capabilities": model.capabilities,
        "modified_at": MODIFIED})


def list_models(app, request, body):
    """GET /v1/models"""
    del body
    app.send_json(request, {"object": "list", "data": [
        {"id": m.name, "object": "model", "created": 1767225600,
         "owned_by": "library"} for m in app.engine.models.values()]})


def generate(app, request, body):
    """POST /api/generate"""
    run(app, request, body, calls.Generate)


def chat(app, request, body):
    """POST /api/chat"""
    run(app, request, body, calls.Chat)


def embed(app, request, body):
    """POST /api/embed"""
    run(app, request, body, calls.Embed)


def openai_chat(app, request, body):
    """POST /v1/chat/completions"""
    if not body.get("messages"):
        raise Refused(400, "[] is too short - 'messages'")
    run(app, request, body, openai_calls.OpenAIChat)


def openai_embed(app, request, body):
    """POST /v1/embeddings"""
    if body.get("input") in (None, []):
        raise Refused(400, "invalid input")
    if body["input"] == "":
        body = {**body, "input": [""]}
    run(app, request, body, openai_calls.OpenAIEmbed)


def run(app, request, body, kind):
    """Make a call of a request and give it to the engine."""
    calls.check_types(body, kind.struct)
    name = body.get("model") or ""
    model = app.engine.find_model(name)
    if model is None:
        refuse_model(name, kind)
    if unloads(body, kind):
        unload(app, request, body, kind, model)
        return
    call = kind(app, request, model, {**body, "model": name})
    app.stats.counts["warmups"] += call.load_only
    call.service = app.service_time(request)
    if request.fault is not None and request.fault.stage == "model":
        faults.strike_model(request.fault, call)
    request.call = call
    app.engine.submit(call)


def refuse_model(name, kind):
    """Say that there is no such model, as each route does."""
    if not name and issubclass(kind, calls.Chat) \
            and kind is not calls.Generate:
        raise Refused(400, "model is required")
    raise Refused(404, f"model '{name}' not found")


def unloads(body, kind):
    """Whether the request is to unload a model."""
    if body.get("keep_alive") is None or issubclass(kind, calls.Embed):
        return False
    asked = "prompt" if kind is calls.Generate else "messages"
    return (not body.get(asked)
            and calls.keep_alive_of(body["keep_alive"]) == 0)


def unload(app, request, body, kind, model):
    """Unload a model and say so."""
    app.engine.unload(model.name)
    said = {"response": ""} if kind is calls.Generate else {
        "message": {"role": "assistant", "content": ""}}
    app.stats.counts["warmups"] += 1
    app.send_json(request, {
        "model": body["model"], "created_at": Stamps.now(), **said,
        "done": True, "done_reason": "unload"})


GET = {"/": root, "/api/version": version, "/api/tags": tags,
       "/api/ps": processes, "/v1/models": list_models}
POST = {"/api/show": show}
MODEL_POST = {"/api/generate": generate, "/api/chat": chat,
              "/api/embed": embed, "/v1/chat/completions": openai_chat,
              "/v1/embeddings": openai_embed}
HEAD = {path: GET[path] for path in ("/", "/api/version", "/api/tags")}


def find(request):
    """(route, None), or (None, the reply for want of one)."""
    method, path = request.head.method, request.head.path
    found = {"GET": GET, "HEAD": HEAD, "POST": {**POST, **MODEL_POST}}
    route = found.get(method, {}).get(path)
    if route is not None:
        return route, None
    if any(path in table for table in found.values()):
        return None, Reply(405, b"405 method not allowed", "text/plain")
    return None, Reply(404, b"404 page not found", "text/plain")


def parse(app, request):
    """The JSON object in a request's body; refuses anything else."""
    if not request.body:
        raise Refused(400, "missing request body")
    try:
        text = request.body.decode("utf-8")
    except UnicodeDecodeError:
        app.stats.counts["bad_utf8"] += 1
        text = request.body.decode("utf-8", "replace")
    try:
        body = json.loads(text)
    except RecursionError:
        raise Refused(400, "exceeded max depth") from None
    except json.JSONDecodeError as error:
        if error.pos >= len(text.rstrip()):
            raise Refused(400, "unexpected EOF") from None
        raise Refused(400, f"invalid character '{text[error.pos]}' looking "
                      "for beginning of value") from None
    if not isinstance(body, dict):
        raise Refused(400, f"json: cannot unmarshal {calls.go_value(body)} "
                      "into Go value")
    return body


def error_body(request, status, message):
    """An error in the dialect of the request."""
    if not request.openai:
        return dump({"error": message})
    kind = {400: "invalid_request_error", 404: "not_found_error"}
    return dump({"error": {"message": message, "param": None, "code": None,
                           "type": kind.get(status, "api_error")}})
