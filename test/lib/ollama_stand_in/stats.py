"""What is counted, so that tests can see what reached the wire."""

import hashlib
import resource
import time
from collections import Counter, deque

COUNTS = ("prompts", "warmups", "answers", "loads", "aborted_loads",
          "failed_loads", "unloads", "aborted", "dropped", "refused_busy",
          "bad_utf8", "bad_requests")
HIGHEST = ("most_in_flight", "most_queued", "most_running",
           "most_connections", "most_sends")
KEEP_BODY = 1 << 16


def prompt_hash(path, model, prompt):
    """The name under which a prompt to a model is counted."""
    data = f"{path}\n{model}\n{prompt}".encode("utf-8", "surrogatepass")
    return hashlib.sha256(data).hexdigest()[:16]


def cpu_seconds():
    """What this process has used."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Stats:
    """The counters."""

    def __init__(self, keep):
        self.connections = 0    # ever; also names the next one
        self.seq = 0
        self.keep = keep
        self.in_flight = 0
        self.clear()

    def clear(self):
        """Start counting again; what is in flight stays so."""
        self.since = time.monotonic()
        self.cpu_before = cpu_seconds()
        self.connections_before = self.connections
        self.requests = Counter()
        self.statuses = Counter()
        self.faults = Counter()
        self.counts = Counter(dict.fromkeys(COUNTS, 0))
        self.most = dict.fromkeys(HIGHEST, 0)
        self.most["most_in_flight"] = self.in_flight
        self.sends = Counter()
        self.busy_seconds = 0.0
        self.ghost_seconds = 0.0
        self.recent = deque(maxlen=self.keep)

    def highest(self, name, value):
        """Remember a value if it is the highest so far."""
        if value > self.most[name]:
            self.most[name] = value

    def connection_opened(self, now_open):
        """A client has opened a connection; returns its number."""
        self.connections += 1
        self.highest("most_connections", now_open)
        return self.connections

    def arrived(self, request):
        """A request is there."""
        self.seq += 1
        request.seq = self.seq
        self.requests[request.head.route] += 1
        self.recent.append(request)
        if request.model_route:
            self.in_flight += 1
            self.highest("most_in_flight", self.in_flight)

    def asked(self, request, model, prompt):
        """A prompt has come."""
        name = prompt_hash(request.head.path, model, prompt)
        request.prompt_hash = name
        self.counts["prompts"] += 1
        self.sends[name] += 1
        self.highest("most_sends", self.sends[name])

    def left(self, request, status):
        """A request has its reply, or will never have one."""
        self.statuses[str(status)] += 1
        if request.model_route:
            self.in_flight -= 1
        if len(request.body) > KEEP_BODY:
            request.body = request.body[:KEEP_BODY]
            request.json = None
            request.prompt = request.prompt[:KEEP_BODY]

    def describe(self, request):
        """A request as tests see it."""
        body = request.json
        if body is None:
            body = request.body.decode("utf-8", "replace")
        return {
            "seq": request.seq,
            "connection": request.conn.number,
            "method": request.head.method,
            "path": request.head.path,
            "headers": request.head.headers,
            "body": body,
            "prompt": request.prompt[:KEEP_BODY],
            "prompt_hash": request.prompt_hash,
            "service": request.call.service if request.call else None,
            "status": "gone" if request.gone else request.status,
            "fault": request.fault.name if request.fault else None,
            "at": round(request.arrived - self.since, 6),
        }

    def report(self, now_open, query):
        """Everything, for GET /_stats."""
        report = {
            "requests": self.requests,
            "total_requests": sum(self.requests.values()),
            "statuses": self.statuses,
            "faults": self.faults,
            **self.counts,
            "connections": self.connections - self.connections_before,
            "open_connections": now_open,
            "in_flight": self.in_flight,
            **self.most,
            "busy_seconds": round(self.busy_seconds, 6),
            "ghost_seconds": round(self.ghost_seconds, 6),
            "seconds": round(time.monotonic() - self.since, 6),
            "cpu_seconds": round(cpu_seconds() - self.cpu_before, 6),
            "distinct_prompts": len(self.sends),
        }
        if self.most["most_sends"] > 1:
            report["repeated"] = {k: n for k, n in self.sends.most_common(20)
                                  if n > 1}
        if "sends" in query:
            report["sends"] = self.sends
        if "recent" in query:
            count = int(query["recent"] or self.keep)
            kept = list(self.recent)[-count:] if count else []
            report["recent"] = [self.describe(r) for r in kept]
        return report
