"""Ollama's scheduler: models, loads, slots, queues.

A job runs on a model that is loaded with its options.  If it is, the job
waits in the model's queue, first come first served, for one of the model's
slots; there is no bound.  If it is not, the job waits in the one line before
the loader, which is bounded: one load at a time, and whatever is in the way is
unloaded first, when its last job is through.

A slot is busy for the service time of its job.  When a client leaves, its job
leaves whatever line it is in; a running job keeps its slot for abort_delay,
but not longer than it would have run: the ghost that the next request meets.
"""

import hashlib
import random
import time
from collections import deque

from units import seconds

BUSY = ("server busy, please try again.  "
        "maximum pending requests exceeded")


class Service:
    """A distribution of service times, in seconds."""

    def __init__(self, text):
        kind, _, rest = text.partition(":")
        if not rest:
            kind, rest = "fixed", text
        args = rest.split(",")
        self.text = text
        self.fixed = None
        if kind == "fixed" and len(args) == 1:
            self.fixed = seconds(args[0])
        elif kind == "lognormal" and len(args) == 2:
            median, sigma = seconds(args[0]), float(args[1])
            self.draw = lambda rng: median * rng.lognormvariate(0, sigma)
        elif kind == "exp" and len(args) == 1:
            mean = seconds(args[0])
            self.draw = lambda rng: rng.expovariate(1 / mean)
        elif kind == "uniform" and len(args) == 2:
            low, high = seconds(args[0]), seconds(args[1])
            self.draw = lambda rng: rng.uniform(low, high)
        else:
            raise ValueError(f'invalid service time "{text}"')

    def sample(self, seed):
        """The time that belongs to a seed."""
        if self.fixed is not None:
            return self.fixed
        return max(0.0, self.draw(random.Random(seed)))


class Model:
    """A model that is there to be loaded."""

    def __init__(self, text):
        self.name, *options = text.split(",")
        if ":" not in self.name:
            self.name += ":latest"
        self.embed = "embed" in self.name
        self.thinking = False
        self.dims = 64
        self.context = 4096
        self.load_time = None
        for option in options:
            self.set(*option.partition("=")[::2])
        self.digest = hashlib.sha256(self.name.encode()).hexdigest()

    def set(self, name, value):
        """Set one option."""
        if name in ("embed", "thinking"):
            setattr(self, name, True)
        elif name in ("dims", "context"):
            setattr(self, name, int(value))
        elif name == "load":
            self.load_time = seconds(value)
        else:
            raise ValueError(f'a model has no option "{name}"')

    @property
    def capabilities(self):
        """As /api/show has them."""
        if self.embed:
            return ["embedding"]
        return ["completion"] + ["thinking"] * self.thinking


class Job:
    """What the engine does for a request; subclasses say what comes of it."""

    key = ()                    # options the model must be loaded with
    keep_alive = None           # seconds; None for the server's
    load_only = False
    hold = False                # run until released
    service = 0.0
    load_time = None            # instead of the model's
    load_error = None           # the load is to fail with this
    reload = False              # load even if it is loaded
    state = "new"
    runner = None
    timer = None
    loaded_at = None
    started_at = None
    ends_at = None

    def __init__(self, request, model):
        self.request = request
        self.model = model

    def started(self):
        """The job has got its slot."""

    def done(self):
        """The job is through."""
        raise NotImplementedError

    def failed(self, status, message):
        """The job will never run."""
        raise NotImplementedError


class Runner:
    """A loaded model."""

    def __init__(self, model, key, slots, keep_alive):
        self.model = model
        self.key = key
        self.slots = slots
        self.keep_alive = keep_alive
        self.queue = deque()
        self.running = set()
        self.busy = 0           # slots taken, ghosts included
        self.users = 0          # jobs that wait for or have a slot
        self.expiring = False
        self.idle_at = None
        self.timer = None
        self.advancing = False


class Engine:
    """The scheduler."""

    def __init__(self, app):
        self.app = app
        self.loop = app.loop
        self.settings = app.settings
        self.stats = app.stats
        self.models = {}
        self.runners = {}
        self.pending = deque()
        self.loading = None

    # Models

    def add_model(self, text):
        """Add a model, or change it."""
        model = Model(text)
        self.models[model.name] = model

    def remove_model(self, name):
        """Forget a model."""
        name = self.full_name(name)
        self.models.pop(name, None)
        self.unload(name)

    @staticmethod
    def full_name(name):
        """A model's name with its tag."""
        return name if ":" in name else name + ":latest"

    def find_model(self, name):
        """The model of that name, or None."""
        return self.models.get(self.full_name(name))

    # Before a model is loaded

    def submit(self, job):
        """Take a job on."""
        runner = self.runners.get(job.model.name)
        if job.reload and runner is not None:
            self.expire(runner)
        if self.usable(runner, job):
            self.attach(runner, job)
        elif len(self.pending) >= self.settings.max_queue:
            self.stats.counts["refused_busy"] += 1
            job.failed(503, BUSY)
        else:
            job.state = "pending"
            self.pending.append(job)
            self.pump()

    @staticmethod
    def usable(runner, job):
        """Whether a job can run on that runner."""
        return (runner is not None and not runner.expiring
                and runner.key == job.key)

    def pump(self):
        """Let the first in line before the loader go on, if it can."""
        while self.pending and self.loading is None:
            job = self.pending[0]
            runner = self.runners.get(job.model.name)
            if self.usable(runner, job):
                self.pending.popleft()
                self.attach(runner, job)
            elif runner is not None:
                self.expire(runner)
                if job.model.name in self.runners:
                    return      # until its last job is through
            elif len(self.runners) >= self.settings.max_loaded:
                self.expire(self.victim())
                if len(self.runners) >= self.settings.max_loaded:
                    return
            else:
                self.pending.popleft()
                self.start_load(job)

    def victim(self):
        """The loaded model to make room: idle, then soonest to expire."""
        return min(self.runners.values(),
                   key=lambda r: (r.users > 0, r.keep_alive, r.model.name))

    def start_load(self, job):
        """Load a job's model."""
        job.state = "loading"
        self.loading = job
        duration = job.load_time
        if duration is None:
            duration = job.model.load_time
        if duration is None:
            duration = self.settings.load_time
        if duration > 0:
            job.timer = self.loop.call_later(duration, self.loaded, job)
        else:
            self.loaded(job)

    def loaded(self, job):
        """A load has come to its end."""
        self.loading = None
        if job.load_error:
            self.stats.counts["failed_loads"] += 1
            job.failed(500, job.load_error)
        else:
            self.stats.counts["loads"] += 1
            slots = 1 if job.model.embed else self.settings.parallel
            runner = Runner(job.model, job.key, slots,
                            self.settings.keep_alive)
            self.runners[job.model.name] = runner
            self.attach(runner, job)
        self.pump()

    def expire(self, runner):
        """Unload a model as soon as nobody uses it."""
        runner.expiring = True
        if runner.users == 0:
            self.drop(runner)

    def drop(self, runner):
        """Unload an unused model."""
        if runner.timer is not None:
            runner.timer.cancel()
        if self.runners.get(runner.model.name) is runner:
            del self.runners[runner.model.name]
            self.stats.counts["unloads"] += 1

    def unload(self, name):
        """Unload a model by its name, or all for True."""
        names = list(self.runners) if name is True else [self.full_name(name)]
        for each in names:
            if each in self.runners:
                self.expire(self.runners[each])

    # On a loaded model

    def attach(self, runner, job):
        """Give a job to its model."""
        job.runner = runner
        job.loaded_at = time.monotonic()
        if job.keep_alive is not None:
            runner.keep_alive = job.keep_alive
        runner.users += 1
        if job.load_only:
            job.state = "done"
            job.done()
            self.leave(runner)
        else:
            job.state = "queued"
            runner.queue.append(job)
            self.advance(runner)

    def advance(self, runner):
        """Start jobs as slots are free."""
        if runner.advancing:
            return
        runner.advancing = True
        while runner.queue and runner.busy < runner.slots:
            self.start(runner, runner.queue.popleft())
        runner.advancing = False
        self.stats.highest("most_queued", len(runner.queue))

    def start(self, runner, job):
        """A job has got a slot."""
        now = time.monotonic()
        job.state = "running"
        job.started_at = now
        runner.busy += 1
        runner.running.add(job)
        self.stats.highest("most_running", runner.busy)
        job.started()
        if job.hold:
            return
        job.ends_at = now + job.service
        if job.service > 0:
            job.timer = self.loop.call_at(job.ends_at, self.finish, job)
        else:
            self.finish(job)

    def finish(self, job):
        """A job has run."""
        runner = job.runner
        job.state = "done"
        job.done()
        self.stats.busy_seconds += time.monotonic() - job.started_at
        self.stats.counts["answers"] += 1
        runner.running.discard(job)
        runner.busy -= 1
        self.leave(runner)
        self.advance(runner)

    def release(self):
        """End the jobs that are being held; returns how many."""
        held = [job for runner in self.runners.values()
                for job in runner.running
                if job.hold and job.state == "running"]
        for job in sorted(held, key=lambda job: job.started_at):
            job.hold = False
            self.finish(job)
        return len(held)

    def leave(self, runner):
        """One user less."""
        runner.users -= 1
        if runner.users > 0:
            return
        if runner.expiring or runner.keep_alive == 0:
            self.drop(runner)
            self.pump()
        elif runner.keep_alive > 0:
            runner.idle_at = time.monotonic()
            if runner.timer is None:
                self.watch(runner, runner.keep_alive)

    def watch(self, runner, delay):
        """Look again whether the model has been idle for long enough."""
        runner.timer = self.loop.call_later(delay, self.idle, runner)

    def idle(self, runner):
        """Unload the model if its time is over."""
        runner.timer = None
        if runner.users > 0 or runner.keep_alive < 0:
            return
        left = runner.idle_at + runner.keep_alive - time.monotonic()
        if left > 0:
            self.watch(runner, left)
        else:
            self.drop(runner)
            self.pump()

    # Clients that leave

    def cancel(self, job):
        """The client has left."""
        state, job.state = job.state, "canceled"
        if job.timer is not None:
            job.timer.cancel()
        if state == "pending":
            self.pending.remove(job)
            self.stats.counts["dropped"] += 1
        elif state == "loading":
            self.stats.counts["aborted_loads"] += 1
            self.loading = None
            self.pump()
        elif state == "queued":
            job.runner.queue.remove(job)
            self.stats.counts["dropped"] += 1
            self.leave(job.runner)
        elif state == "running":
            self.stats.counts["aborted"] += 1
            self.haunt(job)

    def haunt(self, job):
        """Keep an aborted job's slot for a while."""
        now = time.monotonic()
        delay = self.settings.abort_delay
        if job.ends_at is not None:
            delay = min(delay, job.ends_at - now)
        if delay > 0:
            self.loop.call_later(delay, self.vanish, job, now)
        else:
            self.vanish(job, now)

    def vanish(self, job, since):
        """An aborted job lets go of its slot."""
        now = time.monotonic()
        runner = job.runner
        self.stats.busy_seconds += now - job.started_at
        self.stats.ghost_seconds += now - since
        runner.running.discard(job)
        runner.busy -= 1
        self.leave(runner)
        self.advance(runner)

    # What it looks like

    def expires_at(self, runner):
        """When an idle model will be unloaded, in seconds of the epoch."""
        if runner.keep_alive < 0:
            return time.time() + 100 * 365 * 86400
        left = runner.keep_alive
        if runner.users == 0 and runner.idle_at is not None:
            left += runner.idle_at - time.monotonic()
        return time.time() + left

    def state(self):
        """What is where, for /_stats."""
        return {
            "loaded": sorted(self.runners),
            "loading": self.loading.model.name if self.loading else None,
            "pending": len(self.pending),
            "queued": sum(len(r.queue) for r in self.runners.values()),
            "running": sum(r.busy for r in self.runners.values()),
        }

    def restart(self):
        """Forget all that is loaded, as a server that starts again does.

        The clients' connections are closed by now, so nothing runs but
        ghosts; they find their runner gone from the table."""
        for runner in list(self.runners.values()):
            self.drop(runner)
