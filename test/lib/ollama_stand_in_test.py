"""What the stand-in for Ollama promises, tested in a few seconds.

    python3 test/lib/ollama_stand_in_test.py
"""

import contextlib
import http.client
import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
LIMIT = 20                      # seconds; nothing is to take so long


class Server:
    """A running stand-in."""

    def __init__(self, *options):
        self.dir = tempfile.TemporaryDirectory()
        file = os.path.join(self.dir.name, "port")
        self.process = subprocess.Popen(
            [sys.executable, os.path.join(HERE, "ollama_stand_in"), "--port",
             "0", "--port-file", file, "--while-stdin", *options],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        wait_for(lambda: os.path.exists(file))
        with open(file, encoding="ascii") as lines:
            self.port = int(lines.read())

    def stop(self):
        """End it as the end of its input does."""
        self.process.stdin.close()
        self.process.wait(LIMIT)
        self.dir.cleanup()

    def connect(self, timeout=LIMIT):
        """A connection."""
        return http.client.HTTPConnection("127.0.0.1", self.port,
                                          timeout=timeout)

    def call(self, method, path, body=None, conn=None, headers=None):
        """(status, body) of a request; the body decoded if it is JSON."""
        if conn is None:
            with contextlib.closing(self.connect()) as conn:
                return self.call(method, path, body, conn, headers)
        data = None if body is None else json.dumps(body)
        conn.request(method, path, data, headers or {})
        reply = conn.getresponse()
        text = reply.read()
        if "application/json" in reply.getheader("Content-Type", ""):
            text = json.loads(text)
        return reply.status, text

    def control(self, **wanted):
        """Steer it."""
        status, reply = self.call("POST", "/_control", wanted)
        assert status == 200, reply
        return reply

    def stats(self, query=""):
        """Its counters."""
        return self.call("GET", "/_stats" + query)[1]

    def reset(self):
        """As it was at first, but for what is loaded."""
        self.control(clear=True, service="fixed:0", load_time=0,
                     abort_delay=0, answer="", token="", max_queue=512,
                     parallel=1, keep_alive="5m")
        self.call("POST", "/_reset")

    def raw(self, body, path="/api/chat"):
        """All bytes that come back until the end, and how that was."""
        data = json.dumps(body).encode()
        with socket.create_connection(("127.0.0.1", self.port), LIMIT) as sock:
            sock.sendall(b"POST %b HTTP/1.1\r\nHost: localhost\r\n"
                         b"Connection: close\r\nContent-Length: %d\r\n\r\n%b"
                         % (path.encode(), len(data), data))
            got = []
            try:
                while data := sock.recv(1 << 20):
                    got.append(data)
            except ConnectionResetError:
                return b"".join(got), "reset"
            return b"".join(got), "closed"


def wait_for(condition):
    """Wait until it is true."""
    end = time.monotonic() + LIMIT
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("it does not come")
        time.sleep(0.01)


def chat(text, **more):
    """The body of a chat."""
    return {"model": "stand-in", "stream": False, **more,
            "messages": [{"role": "user", "content": text}]}


class StandInTest(unittest.TestCase):
    """What all tests share: one server."""

    @classmethod
    def setUpClass(cls):
        cls.server = Server("--max-loaded", "1")

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def setUp(self):
        self.server.reset()

    def refused(self, status, error, method, path, body=None):
        """Test that a request is answered with an error."""
        self.assertEqual(self.server.call(method, path, body),
                         (status, {"error": error}))

    def connect(self):
        """A connection for this test."""
        conn = self.server.connect()
        self.addCleanup(conn.close)
        return conn

    def background(self, body, path="/api/chat"):
        """A connection on which a request has been sent."""
        before = self.server.stats()["in_flight"]
        conn = self.connect()
        conn.request("POST", path, json.dumps(body))
        wait_for(lambda: self.server.stats()["in_flight"] > before)
        return conn


class ContractTest(StandInTest):
    """Ollama's routes."""

    def test_information(self):
        call = self.server.call
        self.assertEqual(call("GET", "/"), (200, b"Ollama is running"))
        self.assertEqual(call("HEAD", "/"), (200, b""))
        self.assertIn("version", call("GET", "/api/version")[1])
        names = [m["name"] for m in call("GET", "/api/tags")[1]["models"]]
        self.assertEqual(names, ["stand-in:latest", "stand-in-embed:latest"])
        shown = call("POST", "/api/show", {"model": "stand-in"})[1]
        self.assertEqual(shown["capabilities"], ["completion"])
        self.assertEqual(shown["model_info"]["llama.context_length"], 4096)
        self.assertEqual(call("GET", "/nowhere"), (404, b"404 page not found"))
        self.assertEqual(call("GET", "/api/chat")[0], 405)

    def test_chat(self):
        status, reply = self.server.call("POST", "/api/chat", chat("a b <c>"))
        self.assertEqual(status, 200)
        self.assertEqual(reply["message"],
                         {"role": "assistant", "content": "a b <c>"})
        self.assertTrue(reply["done"])
        self.assertEqual(reply["done_reason"], "stop")
        parts = sum(reply.get(k, 0) for k in (
            "load_duration", "prompt_eval_duration", "eval_duration"))
        self.assertLessEqual(parts, reply["total_duration"] + 1000)

    def test_stream_is_the_default(self):
        for service in ("fixed:0", "fixed:50ms"):
            self.server.control(service=service)
            body = {"model": "stand-in", "prompt": "one two three"}
            _, text = self.server.call("POST", "/api/generate", body)
            lines = [json.loads(line) for line in text.splitlines()]
            self.assertEqual("".join(o["response"] for o in lines),
                             "one two three")
            self.assertEqual([o["done"] for o in lines],
                             [False] * (len(lines) - 1) + [True])

    def test_load_and_unload(self):
        call = self.server.call
        body = {"model": "stand-in", "messages": []}
        reply = call("POST", "/api/chat", body)[1]
        self.assertEqual((reply["done"], reply["done_reason"]),
                         (True, "load"))
        self.assertEqual(len(call("GET", "/api/ps")[1]["models"]), 1)
        body["keep_alive"] = 0
        reply = call("POST", "/api/chat", body)[1]
        self.assertEqual(reply["done_reason"], "unload")
        self.assertEqual(call("GET", "/api/ps")[1]["models"], [])
        call("POST", "/api/chat", chat("x", keep_alive=0))
        self.assertEqual(call("GET", "/api/ps")[1]["models"], [])
        call("POST", "/api/chat", chat("x", keep_alive="20ms"))
        wait_for(lambda: not call("GET", "/api/ps")[1]["models"])

    def test_errors(self):
        model = {"model": "stand-in"}
        embed = {"model": "stand-in-embed", "prompt": "x"}
        missing = {"model": "gone", "prompt": "x"}
        cases = (
            (400, "missing request body", "/api/chat", None),
            (400, "model is required", "/api/chat", {}),
            (404, "model 'gone' not found", "/api/generate", missing),
            (404, "model 'gone' not found", "/api/embed", missing),
            (404, "model 'gone' not found", "/api/show", missing),
            (400, '"stand-in-embed" does not support generate',
             "/api/generate", embed),
            (400, '"stand-in-embed" does not support chat', "/api/chat",
             embed),
            (400, '"stand-in" does not support thinking', "/api/chat",
             {**model, "think": True}),
            (500, 'option "seed" must be of type integer', "/api/chat",
             chat("x", options={"seed": "1"})),
            (500, 'invalid format: "yaml"; expected "json" or a valid JSON '
             'Schema object', "/api/chat", chat("x", format="yaml")),
            (400, "raw mode does not support template, system, or context",
             "/api/generate", {**model, "raw": True, "system": "x"}),
            (400, "invalid input type", "/api/embed", {**model, "input": [1]}),
            (400, 'time: missing unit in duration "5"', "/api/chat",
             chat("x", keep_alive="5")),
            (400, "the input length exceeds the context length", "/api/embed",
             {**model, "input": "x" * 20000, "truncate": False}),
        )
        for status, error, path, body in cases:
            with self.subTest(error=error):
                self.refused(status, error, "POST", path, body)
        status, reply = self.server.call(
            "POST", "/api/chat", chat("x" * 20000, truncate=False))
        self.assertEqual((status, reply["error"][:10]), (400, '{"error": '))
        reply = self.server.call("POST", "/api/chat", chat("x" * 20000))[1]
        self.assertEqual(reply["prompt_eval_count"], 2048)

    def test_foreign_host(self):
        self.assertEqual(self.server.call(
            "GET", "/api/version", headers={"Host": "example.com"})[0], 403)

    def test_limits_of_an_answer(self):
        body = chat("one two three four", options={"num_predict": 2})
        reply = self.server.call("POST", "/api/chat", body)[1]
        self.assertEqual(reply["message"]["content"], "one two")
        self.assertEqual((reply["done_reason"], reply["eval_count"]),
                         ("length", 2))
        body["options"] = {"stop": ["three"]}
        reply = self.server.call("POST", "/api/chat", body)[1]
        self.assertEqual(reply["message"]["content"], "one two ")

    def test_answer_in_the_prompt(self):
        body = chat('x [[answer:{"a":[["b"]]}]] y')
        reply = self.server.call("POST", "/api/chat", body)[1]
        self.assertEqual(reply["message"]["content"], '{"a":[["b"]]}')

    def test_schema(self):
        text = "Choose: red, green or blue.\na green frog of 3 inches"
        schema = {
            "type": "object", "required": ["colour", "note"],
            "$defs": {"n": {"type": "integer", "minimum": 3, "maximum": 5}},
            "properties": {
                "colour": {"type": "string", "enum": ["red", "green"]},
                "n": {"$ref": "#/$defs/n"}, "x": {"type": "number"},
                "ok": {"type": ["null", "boolean"]}, "no": {"type": "null"},
                "list": {"type": "array", "minItems": 2, "uniqueItems": True,
                         "items": {"enum": [1, 2, 3]}},
                "part": {"type": "object", "properties": {
                    "day": {"type": "string", "format": "date"}}}}}
        body = chat(text, format=schema)
        replies = [self.server.call("POST", "/api/chat", body)[1]
                   ["message"]["content"] for _ in range(2)]
        self.assertEqual(replies[0], replies[1])
        made = json.loads(replies[0])
        self.assertEqual(made["colour"], "green")
        self.assertIn(made["n"], (3, 4, 5))
        self.assertTrue(0 <= made["x"] <= 1)
        self.assertIsInstance(made["ok"], bool)
        self.assertIsNone(made["no"])
        self.assertEqual(len(set(made["list"])), len(made["list"]))
        self.assertGreaterEqual(len(made["list"]), 2)
        self.assertRegex(made["part"]["day"], r"^\d{4}-\d\d-\d\d$")
        self.assertIsInstance(made["note"], str)

    def test_embed(self):
        body = {"model": "stand-in-embed",
                "input": ["a red fox", "a red dog", "quite different", ""]}
        reply = self.server.call("POST", "/api/embed", body)[1]
        vectors = reply["embeddings"]
        self.assertEqual([len(v) for v in vectors], [64] * 4)
        for vector in vectors:
            self.assertAlmostEqual(math.hypot(*vector), 1, 5)
        near, far = (sum(map(float.__mul__, vectors[0], vectors[i]))
                     for i in (1, 2))
        self.assertGreater(near, far)
        body = {**body, "input": "a red fox", "dimensions": 8}
        vector = self.server.call("POST", "/api/embed", body)[1]["embeddings"]
        self.assertAlmostEqual(math.hypot(*vector[0]), 1, 5)
        self.assertEqual(len(vector[0]), 8)

    def test_openai(self):
        body = chat("one two", max_tokens=1)
        reply = self.server.call("POST", "/v1/chat/completions", body)[1]
        choice = reply["choices"][0]
        self.assertEqual(choice["message"]["content"], "one")
        self.assertEqual(choice["finish_reason"], "length")
        self.assertEqual(reply["usage"]["completion_tokens"], 1)
        body = chat("one", stream=True)
        text = self.server.call("POST", "/v1/chat/completions", body)[1]
        self.assertTrue(text.endswith(b"data: [DONE]\n\n"))
        body = {"model": "stand-in", "input": ["a", "b"]}
        reply = self.server.call("POST", "/v1/embeddings", body)[1]
        self.assertEqual([d["index"] for d in reply["data"]], [0, 1])
        self.assertEqual(len(self.server.call("GET", "/v1/models")[1]["data"]),
                         2)
        body = chat("x", model="gone")
        status, reply = self.server.call("POST", "/v1/chat/completions", body)
        self.assertEqual((status, reply["error"]["type"]),
                         (404, "not_found_error"))

    def test_token(self):
        self.server.control(token="secret")
        self.refused(401, "unauthorized", "GET", "/api/tags")
        headers = {"Authorization": "Bearer secret"}
        self.assertEqual(self.server.call("GET", "/api/tags",
                                          headers=headers)[0], 200)


class SchedulerTest(StandInTest):
    """Queues, loads, and clients that leave."""

    def test_one_after_another(self):
        self.server.control(service="fixed:50ms")
        threads = [threading.Thread(target=self.server.call, args=(
            "POST", "/api/chat", chat(f"row {i}"))) for i in range(4)]
        started = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertGreaterEqual(time.monotonic() - started, 0.2)
        stats = self.server.stats()
        self.assertEqual((stats["most_running"], stats["answers"]), (1, 4))
        self.assertGreaterEqual(stats["busy_seconds"], 0.2)
        self.assertGreater(stats["most_in_flight"], 1)

    def test_clients_that_leave(self):
        self.server.call("POST", "/api/chat", chat(""))
        self.server.control(fault="hold", abort_delay="150ms")
        first = self.background(chat("first"))
        second = self.background(chat("second"))
        second.close()
        wait_for(lambda: self.server.stats()["dropped"] == 1)
        self.server.control(clear=True)
        third = self.background(chat("third"))
        first.close()
        self.assertEqual(third.getresponse().status, 200)
        stats = self.server.stats()
        self.assertEqual((stats["aborted"], stats["answers"]), (1, 1))
        self.assertGreaterEqual(stats["ghost_seconds"], 0.14)
        self.assertEqual(stats["statuses"]["gone"], 2)

    def test_hold_and_release(self):
        conn = self.background(chat("row [[fault:hold]]"))
        self.server.control(release=True)
        self.assertEqual(conn.getresponse().status, 200)

    def test_load_ends_with_its_client(self):
        self.server.control(load_time="10s", unload=True)
        conn = self.background(chat("x"))
        conn.close()
        wait_for(lambda: self.server.stats()["aborted_loads"] == 1)
        self.server.control(load_time="50ms")
        reply = self.server.call("POST", "/api/chat", chat("x"))[1]
        self.assertGreaterEqual(reply["load_duration"], 45000000)
        self.assertEqual(self.server.stats()["loads"], 1)

    def test_reloads(self):
        changes = ({}, {}, {"options": {"num_ctx": 512}},
                   {"options": {"num_ctx": 512, "seed": 1}},
                   {"shift": False}, {})
        self.server.control(unload=True)
        loads = []
        for change in changes:
            self.server.call("POST", "/api/chat", chat("x", **change))
            loads.append(self.server.stats()["loads"])
        self.assertEqual(loads, [1, 1, 2, 2, 3, 4])

    def test_queue_full(self):
        self.server.control(load_time="10s", unload=True, max_queue=1)
        conns = [self.background(chat("x")) for _ in range(2)]
        self.refused(503, "server busy, please try again.  maximum pending "
                     "requests exceeded", "POST", "/api/chat", chat("x"))
        for conn in conns:
            conn.close()

    def test_service_time_is_the_prompts(self):
        self.server.control(service="lognormal:2ms,0.5", seed="7")
        times = []
        for texts in ("aab", "baa"):
            self.server.call("POST", "/_reset")
            for text in texts:
                self.server.call("POST", "/api/chat", chat(text))
            recent = self.server.stats("?recent")["recent"]
            times.append([r["service"] for r in recent])
        self.assertEqual(times[0], times[1][1:] + times[1][:1])
        self.assertEqual(len(set(times[0])), 3)


class FaultTest(StandInTest):
    """The ways to fail."""

    def test_statuses(self):
        for status in (400, 401, 403, 404, 418, 429, 500, 503):
            with self.subTest(status=status):
                reply = self.server.call(
                    "POST", "/api/chat", chat(f"x [[fault:{status}]]"))
                self.assertEqual(reply[0], status)
                self.assertIn("error", reply[1])
        conn = self.connect()
        conn.request("POST", "/api/chat",
                     json.dumps(chat("x [[fault:503:7]]")))
        self.assertEqual(conn.getresponse().getheader("Retry-After"), "7")

    def test_whole_replies(self):
        cases = {
            "reset": (b"", "reset"), "close": (b"", "closed"),
            "html502": (b"<html>", "closed"),
            "redirect": (b"Location: file:///", "closed"),
            "reset_mid": (b"Content-Length", "reset"),
            "short": (b'"done":true', "closed"),
            "wrong_type": (b"Content-Type: text/plain", "closed"),
            "two_objects": (b"}{", "closed"),
            "trailing": (b"}\nand", "closed"),
            "not_done": (b'"done":false', "closed"),
            "length": (b'"done_reason":"length"', "closed"),
            "empty": (b'"content":""', "closed"),
            "nul": (b"row\\u0000 1", "closed"),
            "raw_nul": (b"row\0 1", "closed"),
            "bad_utf8": (b"row\xff\xfe 1", "closed"),
            "surrogate": (b"row\\ud800 1", "closed"),
            "drip:0.1ms": (b'"done":true', "closed"),
            "drip_all:0.1ms": (b'"done":true', "closed"),
            "huge:3MB": (b"a" * (3 << 20), "closed"),
            "deep": (b"[" * 10000 + b"]" * 10000, "closed"),
            "no_length": (b'"done":true', "closed"),
            "http10": (b"HTTP/1.0 200", "closed"),
            "chunked": (b"\r\n0\r\n\r\n", "closed"),
            "big_head:1kb": (b"X-Padding: " + b"a" * 1024, "closed"),
            "array": (b"[{", "closed"), "not_object": (b'"ok"', "closed"),
        }
        for fault, (wanted, end) in cases.items():
            with self.subTest(fault=fault):
                got, how = self.server.raw(chat(f"row 1 [[fault:{fault}]]"))
                self.assertIn(wanted, got)
                self.assertEqual(how, end)
        self.assertEqual(self.server.stats()["faults"]["reset"], 1)

    def test_answers_that_do_not_fit(self):
        schema = {"type": "object", "properties": {
            "n": {"type": "integer"}, "s": {"enum": ["a", "b"]}}}
        for fault in ("bad_schema", "not_json", "bad_enum", "missing_key",
                      "extra_key"):
            body = chat(f"x [[fault:{fault}]]", format=schema)
            reply = self.server.call("POST", "/api/chat", body)[1]
            text = reply["message"]["content"]
            self.assertNotRegex(text, r'^{"n": \d+, "s": "[ab]"}$')

    def test_streams(self):
        body = {"model": "stand-in", "prompt": "a b [[fault:cut_stream]]"}
        text = self.server.call("POST", "/api/generate", body)[1]
        self.assertNotIn(b'"done":true', text)
        body["prompt"] = "a b [[fault:stream_error]]"
        text = self.server.call("POST", "/api/generate", body)[1]
        self.assertIn("error", json.loads(text.splitlines()[-1]))

    def test_embeddings(self):
        lengths = {"wrong_dim": [65, 65], "ragged": [64, 65],
                   "missing": [64], "extra": [64] * 3, "zero_dim": [0, 0]}
        for fault, wanted in lengths.items():
            body = {"model": "stand-in-embed",
                    "input": ["a", f"b [[fault:{fault}]]"]}
            reply = self.server.call("POST", "/api/embed", body)[1]
            self.assertEqual([len(v) for v in reply["embeddings"]], wanted)
        body["input"][1] = "[[fault:nan]]"
        self.refused(400, "embedding contains NaN or Inf values", "POST",
                     "/api/embed", body)

    def test_counts(self):
        def statuses(fault, texts):
            self.server.control(faults=[fault])
            return [self.server.call("POST", "/api/chat", chat(t))[0]
                    for t in texts]

        self.assertEqual(statuses("500:first=2", "aaaa"), [500, 500, 200, 200])
        self.assertEqual(statuses("500:every=2", "aaaa"), [200, 500, 200, 500])
        self.assertEqual(statuses("503:skip=1,once", "aaa"), [200, 503, 200])
        self.assertEqual(statuses("429:match=[bc]", "abc"), [200, 429, 429])
        self.assertEqual(statuses({"name": "404", "model": "x"}, "a"), [200])
        self.server.control(clear=True)
        texts = ["a [[fault:500 once]]", "b [[fault:500 once]]"]
        self.assertEqual([self.server.call("POST", "/api/chat", chat(t))[0]
                          for t in texts * 2], [500, 500, 200, 200])
        self.server.control(fault="401:route=/api/version")
        self.assertEqual(self.server.call("GET", "/api/version")[0], 401)

    def test_requests_without_a_prompt(self):
        self.server.control(fault=["500:once", "404:once,match=^$"])
        self.assertEqual([self.server.call("POST", "/api/chat", chat(t))[0]
                          for t in ("", "", "x", "x")], [404, 200, 500, 200])
        self.server.control(faults=["slow:50ms,route=/api/version,once"])
        started = time.monotonic()
        self.assertEqual(self.server.call("GET", "/api/version")[0], 200)
        self.assertGreaterEqual(time.monotonic() - started, 0.045)

    def test_stale_connection(self):
        self.server.control(fault="stale:once")
        conn = self.connect()
        self.server.call("POST", "/api/chat", chat("a"), conn)
        with self.assertRaises(http.client.RemoteDisconnected):
            self.server.call("POST", "/api/chat", chat("b"), conn)
        conn.close()
        self.assertEqual(self.server.call("POST", "/api/chat", chat("b"),
                                          conn)[0], 200)
        self.assertEqual(self.server.stats()["answers"], 2)

    def test_load_faults(self):
        self.server.call("POST", "/api/chat", chat("x"))
        self.server.control(fault="load_fail:once")
        self.refused(500, "llama-server process has terminated: exit status "
                     "1", "POST", "/api/chat", chat("x"))
        self.server.control(fault="load:100ms,once")
        reply = self.server.call("POST", "/api/chat", chat("x"))[1]
        self.assertGreaterEqual(reply["load_duration"], 90000000)

    def test_restart(self):
        self.server.call("POST", "/api/chat", chat("x"))
        held = self.background(chat("y [[fault:hold]]"))
        control = self.connect()
        self.server.call("POST", "/_control", {"restart": "1500ms"}, control)
        with self.assertRaises(OSError):
            held.getresponse()
        with self.assertRaises(ConnectionRefusedError):
            self.server.call("GET", "/")
        status, stats = self.server.call("GET", "/_stats", conn=control)
        self.assertEqual((status, stats["loaded"]), (200, []))
        wait_for(self.is_back)

    def is_back(self):
        """Whether the server answers."""
        try:
            return self.server.call("GET", "/")[0] == 200
        except OSError:
            return False

    def test_unknown(self):
        for wanted in ({"fault": "gremlin"}, {"nothing": 1}, {"service": "x"}):
            status, _ = self.server.call("POST", "/_control", wanted)
            self.assertEqual(status, 400)


class StatsTest(StandInTest):
    """What is counted."""

    def test_counters(self):
        conn = self.connect()
        headers = {"Authorization": "Bearer x"}
        for text in ("a", "b", "b"):
            self.server.call("POST", "/api/chat", chat(text), conn, headers)
        stats = self.server.stats("?recent=1")
        self.assertEqual(stats["requests"], {"POST /api/chat": 3})
        self.assertEqual((stats["prompts"], stats["distinct_prompts"],
                          stats["most_sends"]), (3, 2, 2))
        self.assertEqual(list(stats["repeated"].values()), [2])
        self.assertEqual((stats["connections"], stats["open_connections"]),
                         (1, 1))
        last, = stats["recent"]
        self.assertEqual(last["headers"]["authorization"], "Bearer x")
        self.assertEqual(last["body"], chat("b"))
        self.assertEqual(last["status"], 200)

    def test_requests_in_pieces(self):
        data = json.dumps(chat("a")).encode()
        head = (b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\n"
                b"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n")
        whole = head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data)
        with socket.create_connection(("127.0.0.1", self.server.port)) as sock:
            for i in range(0, len(whole), 40):
                sock.sendall(whole[i:i + 40])
                time.sleep(0.001)
            got = b""
            while b'"done":true' not in got:
                got += sock.recv(4096)
        self.assertTrue(got.startswith(b"HTTP/1.1 100 Continue\r\n\r\n"))

    def test_requests_sent_ahead(self):
        data = json.dumps(chat("a")).encode()
        one = (b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\n"
               b"Content-Length: %d\r\n\r\n%b" % (len(data), data))
        with socket.create_connection(("127.0.0.1", self.server.port)) as sock:
            sock.sendall(one * 5)
            got = b""
            while got.count(b'"done":true') < 5:
                got += sock.recv(65536)
        self.assertEqual(self.server.stats()["most_in_flight"], 1)


if __name__ == "__main__":
    unittest.main()
