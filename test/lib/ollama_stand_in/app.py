"""The server: brings the other files together and sees each request through.
"""

import ipaddress
import socket
import traceback

import calls
import control
import faults
import routes
from calls import Refused, dump
from engine import Engine
from stats import Stats
from wire import Listener, Reply

DEFAULT_MODELS = ("stand-in", "stand-in-embed")


class App:
    """The server."""

    def __init__(self, loop, args):
        self.loop = loop
        self.connections = set()
        self.settings = control.Settings(args)
        self.stats = Stats(self.settings.recent)
        self.engine = Engine(self)
        self.faults = faults.Faults()
        self.hosts = {}         # Host headers, and whether they are ours
        for text in args.model or DEFAULT_MODELS:
            self.engine.add_model(text)
        for spec in args.fault:
            self.faults.add(spec)
        self.listener = Listener(self, args.port)
        self.port = self.listener.port

    # Requests

    def handle(self, request):
        """See to a request that has arrived."""
        path = request.head.path
        if path.startswith("/_"):
            control.handle(self, request)
            return
        route, reply = routes.find(request)
        request.model_route = path in routes.MODEL_POST
        self.stats.arrived(request)
        try:
            if not self.known_host(request.head.headers.get("host", "")):
                reply = Reply(403, b"", "text/plain")
            elif not self.authorized(request):
                raise Refused(401, "unauthorized")
            if reply is not None:
                request.conn.send(request, reply)
                return
            self.serve(request, route)
        except Refused as error:
            self.stats.counts["bad_requests"] += 1
            self.send_error(request, error.status, error.message)
        except Exception:       # ours: say so, where a test will see it
            traceback.print_exc()
            if not request.done:
                self.send_error(request, 500, "the stand-in is broken")

    def serve(self, request, route):
        """Let a fault strike, or the route answer."""
        body = None
        model = prompt = ""
        if request.head.method == "POST":
            body = request.json = routes.parse(self, request)
            if request.model_route:
                prompt = request.prompt = calls.prompt_of(body)
                model = body.get("model") or ""
                if prompt:
                    self.stats.asked(request, model, prompt)
        if self.faults.rules or "[[" in prompt:
            request.fault = self.faults.pick(request, model, prompt)
        fault = request.fault
        if fault is not None:
            self.stats.faults[fault.name] += 1
            if fault.stage == "early":
                faults.strike_early(self, request, fault, model)
                return
            if fault.stage == "model" and not request.model_route:
                faults.strike_other(self, request, fault, lambda: route(
                    self, request, body))
                return
        route(self, request, body)

    def known_host(self, host):
        """Whether a request may be for us, as Ollama sees it."""
        known = self.hosts.get(host)
        if known is None:
            known = self.hosts[host] = is_local(host)
        return known

    def authorized(self, request):
        """Whether the request has the token, if there is one."""
        token = self.settings.token
        return not token or (
            request.head.headers.get("authorization") == f"Bearer {token}")

    def service_time(self, request):
        """Seconds that a request takes: of its prompt, and of how often that
        has been asked, so that neither other requests nor their order
        matter."""
        service = self.settings.service
        if service.fixed is not None:
            return service.fixed
        prompt = request.prompt_hash
        times = self.stats.sends[prompt]
        return service.sample(f"{self.settings.seed} {prompt} {times}")

    def clients(self):
        """How many connections there are, without those of tests."""
        return sum(not conn.control for conn in self.connections)

    # Replies

    def send_json(self, request, value):
        """Reply with an object."""
        reply = Reply(200, dump(value))
        if request.fault is not None:
            faults.strike_reply(request.fault, reply)
        request.conn.send(request, reply)

    def error_reply(self, request, status, message):
        """The reply for an error."""
        return Reply(status, routes.error_body(request, status, message))

    def send_error(self, request, status, message):
        """Reply with an error."""
        request.conn.send(request, self.error_reply(request, status, message))

    def finished(self, request):
        """A request's reply is out."""
        if not request.head.path.startswith("/_"):
            self.stats.left(request, request.status)

    def gone(self, request):
        """The client of a request has left."""
        self.finished_gone(request)
        if request.call is not None:
            self.engine.cancel(request.call)

    def finished_gone(self, request):
        """Count a request whose client has left."""
        if not request.head.path.startswith("/_"):
            self.stats.left(request, "gone")

    # Going away

    def drop_connections(self, but=None):
        """Reset all connections, one excepted."""
        for conn in list(self.connections):
            if conn is not but:
                conn.reset()

    def drop_idle(self, but=None):
        """Close the connections that have no request."""
        for conn in list(self.connections):
            if conn is not but and conn.request is None:
                conn.transport.close()

    def go_away(self, duration, restart, but=None):
        """Refuse connections for so many seconds, after dropping all."""
        self.listener.close(duration)
        self.drop_connections(but)
        if restart:
            self.loop.call_soon(self.engine.restart)


def is_local(host):
    """Whether a Host header is one that Ollama answers on loopback."""
    name = host.lower()
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    try:
        address = ipaddress.ip_address(name)
        return (address.is_loopback or address.is_private
                or address.is_unspecified)
    except ValueError:
        pass
    return (name in ("", "localhost", socket.gethostname().lower())
            or name.endswith((".localhost", ".local", ".internal")))
