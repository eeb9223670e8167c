"""A stand-in for Ollama: its HTTP contract without a model behind it.

    python3 test/lib/ollama_stand_in [--port N] [--port-file FILE] [OPTION...]

Tests, benchmarks and the demo need a server that answers as Ollama does, and
as it fails, at a pace they choose, and that tells what it was asked.  This
one needs nothing but Python's standard library and listens on 127.0.0.1 only.

Faithful to Ollama 0.33 as its sources have it: routes, fields and defaults
(stream is true unless said otherwise), error bodies and status codes, empty
prompts that only load, keep_alive, the scheduler (models load one at a time,
a load ends when the client that wanted it leaves, load-time options and shift
reload, a loaded model has an unbounded first-come queue before its slots and
only those that wait for a load are ever refused with 503), requests dropped
or aborted when the client leaves, TCP_NODELAY and connections that stay open.

Not faithful: there is no model.  Answers are made up from the prompt, always
the same for the same prompt, and fit the schema asked for; embeddings come
from the words of a text.  A token is six characters or fewer.  Templates,
images, tools, thinking and log probabilities are not there; neither is
anything that manages models.  A model being drained before it is unloaded
takes no new requests, and requests for a model that is just loading count as
waiting for a load.

The files: wire.py is HTTP, routes.py the routes, calls.py requests to models
and the shapes of their answers (openai_calls.py in OpenAI's dialect), engine.py the scheduler, answers.py what a
model would say, faults.py the ways to fail, stats.py what is counted, and
control.py how a test steers all that while it runs.
"""

import sys

sys.dont_write_bytecode = True  # the directory may not be ours

import argparse  # noqa: E402
import asyncio  # noqa: E402
import gc  # noqa: E402
import os  # noqa: E402
import selectors  # noqa: E402
import signal  # noqa: E402

from app import App  # noqa: E402
from control import SETTINGS  # noqa: E402

EPILOG = """
distributions: fixed:100ms, lognormal:MEDIAN,SIGMA, exp:MEAN, uniform:LOW,HIGH

models: NAME[,embed][,thinking][,dims=N][,context=N][,load=TIME]

faults: NAME[:ARGUMENT[,CONDITION...]]; conditions are once, first=N, skip=N,
every=N, delay=TIME, route=PATH, model=NAME and, last, match=REGEX.  A prompt
can hold one too, [[fault:500 once]], and its answer: [[answer:TEXT]].
See faults.py for their names.

while it runs: GET /_stats[?recent=N], POST /_reset, GET and POST /_control
with settings by the names of these options, "fault", "faults", "clear",
"release", "unload", "refuse": TIME, "restart": TIME, "drop_connections",
"add_model" and "remove_model".
"""


def parse_args(argv):
    """The command line's options."""
    parser = argparse.ArgumentParser(
        prog="ollama_stand_in",
        description="Answer like Ollama, without a model.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--port", type=int, default=11434,
                        help="0 for any free one (default 11434)")
    parser.add_argument("--port-file", metavar="FILE",
                        help="write the port there once it listens")
    parser.add_argument("--while-stdin", action="store_true",
                        help="end when standard input does")
    parser.add_argument("--model", action="append", default=[],
                        help="may be repeated; default: stand-in and "
                        "stand-in-embed")
    parser.add_argument("--fault", action="append", default=[],
                        help="may be repeated; the first that matches")
    for name, setting in SETTINGS.items():
        parser.add_argument("--" + name.replace("_", "-"),
                            default=setting.default, metavar=setting.metavar,
                            help=setting.help)
    return parser.parse_args(argv)


def write_port_file(path, port):
    """Write the port so that a reader sees the whole of it or nothing."""
    with open(path + ".new", "w", encoding="ascii") as file:
        file.write(f"{port}\n")
    os.replace(path + ".new", path)


def stop_with_stdin(loop):
    """Let the loop end when whoever started us has closed our input."""

    def readable():
        if not os.read(0, 4096):
            loop.stop()

    loop.add_reader(0, readable)


def precise_timers():
    """Ask the kernel not to round our waits up by its usual 50 us."""
    try:
        with open("/proc/self/timerslack_ns", "w", encoding="ascii") as file:
            file.write("1")
    except OSError:
        pass


def main():
    """Serve until told to stop."""
    args = parse_args(sys.argv[1:])
    # epoll waits whole milliseconds; select does not.
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    asyncio.set_event_loop(loop)
    precise_timers()
    try:
        app = App(loop, args)
    except (ValueError, OSError) as error:
        sys.exit(f"ollama_stand_in: {error}")
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, loop.stop)
    if args.while_stdin:
        stop_with_stdin(loop)
    if args.port_file:
        write_port_file(args.port_file, app.port)
    print(app.port, flush=True)
    gc.freeze()
    loop.run_forever()


main()
