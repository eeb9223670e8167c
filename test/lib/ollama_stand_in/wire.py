"""HTTP/1.1 on asyncio: requests in, replies out.

Written by hand because a request must cost some tens of microseconds, and
because replies must be able to break every rule.  A reply leaves in one
write; asyncio sets TCP_NODELAY.  A connection has one request at a time;
what a client sends ahead waits.
"""

import asyncio
import socket
import struct
import time
from email.utils import formatdate
from http import HTTPStatus
from urllib.parse import parse_qs, unquote

JSON = "application/json; charset=utf-8"
TEXT = "text/plain; charset=utf-8"
MAX_HEAD = 1 << 20
MAX_FD = 1000                   # select knows 1024
PIECE = 1 << 18                 # of a body that is made while it is sent
MARK = "\ue000".encode()        # in a text, what a fault will put there
RESET = struct.pack("ii", 1, 0)  # linger: send RST instead of FIN


class BadRequest(Exception):
    """What arrived is not HTTP."""


class Head:
    """A request's first line and headers, understood."""

    def __init__(self, data):
        lines = data.decode("latin-1").split("\r\n")
        try:
            self.method, target, version = lines[0].split(" ")
            pairs = [line.split(":", 1) for line in lines[1:]]
            self.headers = {k.lower(): v.strip() for k, v in pairs}
            self.length = int(self.headers.get("content-length", 0))
        except ValueError:
            raise BadRequest from None
        path, _, query = target.partition("?")
        self.path = unquote(path)
        self.route = f"{self.method} {self.path}"
        self.query = {k: v[-1] for k, v in parse_qs(query, True).items()}
        connection = self.headers.get("connection", "").lower()
        self.chunked = "chunked" in self.headers.get("transfer-encoding", "")
        self.expect = "expect" in self.headers
        self.close = "close" in connection or (
            version == "HTTP/1.0" and "keep-alive" not in connection)


class Request:
    """One request, from its last byte to the last byte of its reply."""

    seq = 0
    json = None
    gone = False                # the client has left
    done = False                # the reply has been sent, or cannot be
    call = None                 # what the engine does for it
    fault = None
    status = None
    prompt = ""                 # all the text in it
    prompt_hash = None
    model_route = False

    def __init__(self, conn, head, body):
        self.conn = conn
        self.head = head
        self.body = body
        self.arrived = time.monotonic()

    @property
    def openai(self):
        """Whether it speaks OpenAI's dialect."""
        return self.head.path.startswith("/v1/")


class Reply:
    """What is to be sent, and how; faults change it."""

    headers = ()
    framing = "length"          # or chunked, or close
    length = None               # what Content-Length claims, if not the truth
    fill = 0                    # bytes to add where the body has MARK
    trim = None                 # bytes of the body that are sent
    end = "keep"                # or close, or reset
    interval = None             # seconds from one byte to the next
    slow_head = False           # the head too
    wait = 0                    # seconds between the head and the body
    version = "1.1"

    def __init__(self, status, body, content_type=JSON):
        self.status = status
        self.type = content_type
        self.body = body

    def add_header(self, name, value):
        """Add one."""
        self.headers += ((name, value),)

    def is_plain(self):
        """Whether it can be sent in one go."""
        return (self.interval is None and not self.fill and self.trim is None
                and not self.wait)


def reason(status):
    """The words that go with a status."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


class Heads:
    """The beginnings of heads, made once a second for the date in them."""

    second = 0
    made = {}

    @classmethod
    def of(cls, reply):
        """The lines that depend on nothing but time, status and type."""
        second = int(time.time())
        if second != cls.second:
            cls.second = second
            cls.made.clear()
        key = reply.version, reply.status, reply.type
        text = cls.made.get(key)
        if text is None:
            text = cls.made[key] = (
                f"HTTP/{reply.version} {reply.status} {reason(reply.status)}"
                f"\r\nContent-Type: {reply.type}\r\n"
                f"Date: {formatdate(second, usegmt=True)}\r\n")
        return text


def head_of(reply, close):
    """The bytes of a reply's head."""
    lines = [Heads.of(reply)]
    if reply.headers:
        lines += [f"{name}: {value}\r\n" for name, value in reply.headers]
    if reply.framing == "chunked":
        lines.append("Transfer-Encoding: chunked\r\n")
    elif reply.framing == "length":
        length = reply.length
        if length is None:
            length = len(reply.body) + reply.fill
        lines.append(f"Content-Length: {length}\r\n")
    if close:
        lines.append("Connection: close\r\n")
    lines.append("\r\n")
    return "".join(lines).encode("latin-1")


def chunk(data):
    """Data framed as one chunk; empty data ends the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def pieces_of(reply):
    """The body of a reply, piece by piece."""
    body = reply.body
    if reply.framing == "chunked":
        body = chunk(body) + chunk(b"")
    if reply.trim is not None:
        body = body[:reply.trim]
    if reply.interval is not None:
        for i in range(len(body)):
            yield body[i:i + 1]
    elif reply.fill:
        middle = body.find(MARK)
        fill = reply.fill + len(MARK)
        yield body[:middle]
        for start in range(0, fill, PIECE):
            yield b"a" * min(PIECE, fill - start)
        yield body[middle + len(MARK):]
    else:
        yield body


class Sender:
    """Sends a reply that is not to leave at once."""

    def __init__(self, conn, request, reply, head):
        self.conn = conn
        self.request = request
        self.reply = reply
        self.pieces = pieces_of(reply)
        if reply.slow_head:
            self.pieces = (bytes([b]) for b in head + reply.body)
        else:
            conn.transport.write(head)
        if reply.wait:
            conn.app.loop.call_later(reply.wait, self.go)
        else:
            self.go()

    def go(self):
        """Send what may be sent now."""
        loop = self.conn.app.loop
        while not self.request.gone:
            if self.conn.paused:
                self.conn.resume = self.go
                return
            piece = next(self.pieces, None)
            if piece is None:
                break
            self.conn.transport.write(piece)
            if self.reply.interval is not None:
                loop.call_later(self.reply.interval, self.go)
                return
        if not self.request.gone:
            # Let the client read what it got before it hears of the end.
            delay = 0.02 if self.reply.end == "reset" else 0
            loop.call_later(delay, self.conn.end, self.request, self.reply.end)


class Connection(asyncio.Protocol):
    """One client's connection."""

    heads = {}                  # what has been understood already

    def __init__(self, app):
        self.app = app
        self.transport = None
        self.number = 0
        self.control = None     # whether a test steers us on it, once known
        self.served = 0
        self.buffer = b""
        self.head = None
        self.body_at = 0
        self.request = None
        self.serving = False
        self.paused = False
        self.resume = None

    # What asyncio calls

    def connection_made(self, transport):
        """A client has come."""
        self.transport = transport
        self.app.connections.add(self)

    def connection_lost(self, exc):
        """The client has left, or we have closed."""
        self.app.connections.discard(self)
        if self.control is None:
            self.count(False)   # it came and said nothing
        self.buffer = b""
        request, self.request = self.request, None
        if request is not None and not request.done:
            request.gone = True
            self.app.gone(request)

    def eof_received(self):
        """As in Go, a client that ends its side has left."""
        return False

    def pause_writing(self):
        """The client reads too slowly."""
        self.paused = True

    def resume_writing(self):
        """The client has caught up."""
        self.paused = False
        resume, self.resume = self.resume, None
        if resume:
            resume()

    def data_received(self, data):
        """Bytes have come."""
        if self.buffer:
            if not isinstance(self.buffer, bytearray):
                self.buffer = bytearray(self.buffer)
            self.buffer += data
        else:
            self.buffer = data
        if self.request is None:
            self.serve()

    def count(self, control):
        """Count the connection, unless it is a test's own."""
        self.control = control
        if not control:
            self.number = self.app.stats.connection_opened(
                self.app.clients())

    # Requests

    def serve(self):
        """Handle the requests that are there, one after another."""
        if self.serving:
            return
        self.serving = True
        try:
            while self.buffer and self.request is None:
                request = self.take()
                if request is None:
                    break
                if self.control is None:
                    self.count(request.head.path.startswith("/_"))
                self.request = request
                self.app.handle(request)
        except BadRequest:
            self.transport.write(
                b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; "
                b"charset=utf-8\r\nConnection: close\r\n\r\n400 Bad Request")
            self.transport.close()
        finally:
            self.serving = False

    def take(self):
        """The next request, if all of it is there."""
        if self.head is None:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                if len(self.buffer) > MAX_HEAD:
                    raise BadRequest
                return None
            self.head = self.head_from(bytes(self.buffer[:end]))
            self.body_at = end + 4
            if self.head.expect:
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self.head.chunked:
            body, end = self.unchunk()
        else:
            end = self.body_at + self.head.length
            body = bytes(self.buffer[self.body_at:end])
        if body is None or len(self.buffer) < end:
            return None
        self.buffer = self.buffer[end:]
        head, self.head = self.head, None
        return Request(self, head, body)

    def head_from(self, data):
        """A head; clients repeat themselves, so those seen are kept."""
        head = self.heads.get(data)
        if head is None:
            head = Head(data)
            if len(self.heads) > 1000:
                self.heads.clear()
            self.heads[data] = head
        return head

    def unchunk(self):
        """A chunked body and where it ends, or (None, 0) if it has not."""
        body = []
        at = self.body_at
        while True:
            end = self.buffer.find(b"\r\n", at)
            if end < 0:
                return None, 0
            try:
                length = int(bytes(self.buffer[at:end]).split(b";")[0], 16)
            except ValueError:
                raise BadRequest from None
            at = end + 2 + length + 2
            if len(self.buffer) < at:
                return None, 0
            body.append(bytes(self.buffer[end + 2:at - 2]))
            if length == 0:
                return b"".join(body), at

    # Replies

    def send(self, request, reply):
        """Send a reply."""
        request.status = reply.status
        close = request.head.close or reply.framing == "close"
        if close and reply.end == "keep":
            reply.end = "close"
        head = head_of(reply, close)
        if request.head.method == "HEAD":
            self.transport.write(head)
            self.end(request, reply.end)
        elif reply.is_plain():
            body = reply.body
            if reply.framing == "chunked":
                body = chunk(body) + chunk(b"")
            self.transport.write(head + body)
            self.end(request, reply.end)
        else:
            Sender(self, request, reply, head)

    def start_stream(self, request, reply):
        """Send the head of a reply whose chunks follow by stream()."""
        request.status = reply.status
        reply.framing = "chunked"
        self.transport.write(head_of(reply, request.head.close))

    def stream(self, data):
        """Send some of a stream; nothing ends it."""
        self.transport.write(chunk(data))

    def end(self, request, how="keep"):
        """The reply is out, or will never be: finish the request."""
        if request.done:
            return
        request.done = True
        if self.request is request:
            self.request = None
        self.served += 1
        self.app.finished(request)
        if how == "reset":
            self.reset()
        elif how == "close" or request.head.close:
            self.transport.close()
        elif not self.serving:
            self.serve()

    def reset(self):
        """Drop the connection the hard way."""
        sock = self.transport.get_extra_info("socket")
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        except OSError:
            pass                # gone already
        self.transport.abort()


class Listener:
    """The listening socket, which can go away for a while."""

    def __init__(self, app, port):
        self.app = app
        self.sock = None
        self.port = port
        self.tasks = set()
        self.open()

    def open(self):
        """Listen; raises OSError if the port is taken."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setblocking(False)
        try:
            sock.bind(("127.0.0.1", self.port))
        except OSError:
            sock.close()
            raise
        sock.listen(512)
        self.port = sock.getsockname()[1]
        self.sock = sock
        self.app.loop.add_reader(sock, self.accept)

    def accept(self):
        """Take the connections that wait."""
        while self.sock is not None:
            try:
                conn, _ = self.sock.accept()
            except OSError:
                return
            if conn.fileno() > MAX_FD:
                conn.close()
                continue
            task = self.app.loop.create_task(
                self.app.loop.connect_accepted_socket(
                    lambda: Connection(self.app), conn))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    def close(self, duration):
        """Refuse connections for so many seconds."""
        if self.sock is not None:
            self.app.loop.remove_reader(self.sock)
            self.sock.close()
            self.sock = None
            self.app.loop.call_later(duration, self.reopen)

    def reopen(self):
        """Listen again, as soon as the port is free."""
        try:
            self.open()
        except OSError:
            self.app.loop.call_later(0.05, self.reopen)
