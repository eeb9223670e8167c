"""How a test steers the server, and what it asks it."""

import json

from calls import dump
from engine import Service
from units import seconds
from wire import Reply


class Setting:
    """One setting: an option of the command line and a key of /_control."""

    def __init__(self, kind, default, metavar, text):
        self.kind = kind
        self.default = default
        self.metavar = metavar
        self.help = f"{text} (default {default})" if default else text


def optional(value):
    """A text, or None for none."""
    return value or None


SETTINGS = {
    "service": Setting(Service, "fixed:0", "DISTRIBUTION",
                       "how long a request takes"),
    "seed": Setting(str, "0", "SEED", "of the distribution"),
    "load_time": Setting(seconds, "0", "TIME", "to load a model"),
    "abort_delay": Setting(seconds, "0", "TIME",
                           "that a request aborted keeps its slot"),
    "keep_alive": Setting(seconds, "5m", "TIME",
                          "that an unused model stays loaded"),
    "parallel": Setting(int, "1", "N", "slots of a model"),
    "max_queue": Setting(int, "512", "N", "requests that wait for a load"),
    "max_loaded": Setting(int, "1", "N", "models loaded at once"),
    "recent": Setting(int, "1000", "N", "requests to remember"),
    "answer": Setting(optional, "", "TEXT",
                      "instead of one made up; echo: the prompt"),
    "token": Setting(optional, "", "TEXT", "that requests must bear"),
}


class Settings:
    """The settings' values, by their names."""

    def __init__(self, args):
        for name in SETTINGS:
            self.set(name, getattr(args, name))

    def set(self, name, value):
        """Set one; raises ValueError."""
        kind = SETTINGS[name].kind
        if kind is not seconds and value is not None:
            value = str(value)
        setattr(self, name, kind(value))

    def report(self):
        """All of them."""
        return {name: getattr(value, "text", value)
                for name, value in vars(self).items()}


def handle(app, request):
    """Answer a request to /_stats, /_reset or /_control."""
    route = (request.head.method, request.head.path)
    try:
        if route == ("GET", "/_stats"):
            send(request, stats_of(app, request.head.query))
        elif route == ("POST", "/_reset"):
            app.stats.clear()
            app.faults.marked.clear()
            send(request, {})
        elif route == ("GET", "/_control"):
            send(request, state_of(app))
        elif route == ("POST", "/_control"):
            change(app, request, json.loads(request.body or b"{}"))
        else:
            send(request, {"error": "there is no such route"}, 404)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        send(request, {"error": str(error)}, 400)


def send(request, value, status=200):
    """Reply with an object."""
    request.conn.send(request, Reply(status, dump(value)))


def stats_of(app, query):
    """What has been counted and what is going on."""
    report = app.stats.report(app.clients(), query)
    report.update(app.engine.state())
    return report


def state_of(app):
    """How the server is set up."""
    return {"settings": app.settings.report(),
            "faults": [fault.report() for fault in app.faults.rules],
            "models": sorted(app.engine.models)}


def change(app, request, wanted):
    """Do what a test wants, in a fixed order, and reply when it is done."""
    unknown = set(wanted) - set(SETTINGS) - {name for name, _ in ACTIONS}
    if unknown:
        raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
    for name in SETTINGS:
        if name in wanted:
            app.settings.set(name, wanted[name])
    results = {}
    for name, action in ACTIONS:
        if name in wanted:
            results[name] = action(app, request, wanted[name])
    send(request, {**state_of(app), "results": results})


def each(value):
    """A list, or a single thing as one."""
    return value if isinstance(value, list) else [value]


def add_faults(app, request, value):
    """Set faults besides those there are."""
    del request
    for spec in each(value):
        app.faults.add(spec)


def set_faults(app, request, value):
    """Set these faults and no others."""
    app.faults.clear()
    add_faults(app, request, value)


def drop_connections(app, request, value):
    """Close the other connections, or only those that are idle."""
    if value == "idle":
        app.drop_idle(request.conn)
    elif value:
        app.drop_connections(request.conn)


def add_models(app, request, value):
    """Add models."""
    del request
    for text in each(value):
        app.engine.add_model(text)


def remove_models(app, request, value):
    """Remove models."""
    del request
    for name in each(value):
        app.engine.remove_model(name)


ACTIONS = (
    ("clear", lambda app, request, value: app.faults.clear()),
    ("faults", set_faults),
    ("fault", add_faults),
    ("add_model", add_models),
    ("remove_model", remove_models),
    ("unload", lambda app, request, value: app.engine.unload(value)),
    ("release", lambda app, request, value: app.engine.release()),
    ("drop_connections", drop_connections),
    ("refuse", lambda app, request, value: app.go_away(
        seconds(value), False, request.conn)),
    ("restart", lambda app, request, value: app.go_away(
        seconds(value), True, request.conn)),
)
