"""What people write instead of an LLM job: a client that asks a model server
for each row and writes the answer, with a commit per row.

	llm_client.py [--processes N] [--timeout S] [--attempts N] [--seconds S]
		URL ROWS PSQL ARGUMENT...

Rows 1 to ROWS of the table ticket are dealt to N processes.  Each has one
connection to the server, kept while it works, and one session in the
database: psql, read and written through pipes, as Python's standard library
has no driver for PostgreSQL.

Prints one line: rows answered, requests, timeouts, seconds, seconds of CPU of
all processes with their psql and the server processes of their sessions, and
the sum of the largest resident memory of these processes and psql in kB; then,
in ms, the median time of a row.
"""

import argparse
import http.client
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import time
import urllib.parse


def body(row):
    """The request for a row, as sabot writes it."""
    return json.dumps({
        "model": "stand-in",
        "messages": [{"role": "user",
                      "content": f"Label this: text number {row}"}],
        "stream": False, "think": False, "truncate": False,
        "options": {"seed": 0, "temperature": 0, "num_predict": 512},
        "keep_alive": "10m"}).encode()


class Client:
    """One process: a connection, a session, and what came of it."""

    def __init__(self, args):
        self.args = args
        self.address = urllib.parse.urlsplit(args.url).netloc
        self.server = None
        self.requests = self.timeouts = 0
        self.times = []
        self.psql = subprocess.Popen(args.psql, stdin=subprocess.PIPE,
                                     stdout=subprocess.PIPE, text=True)
        self.backend = self.query("SELECT pg_backend_pid();")

    def query(self, sql):
        """The one line that a statement returns; it is committed then."""
        self.psql.stdin.write(sql + "\n")
        self.psql.stdin.flush()
        return self.psql.stdout.readline().strip()

    def ask(self, row):
        """One attempt; the answer, or None after a timeout."""
        if self.server is None:
            self.server = http.client.HTTPConnection(
                self.address, timeout=self.args.timeout)
        self.requests += 1
        try:
            self.server.request("POST", "/api/chat", body(row),
                                {"Content-Type": "application/json"})
            reply = self.server.getresponse()
            answer = json.loads(reply.read())
        except TimeoutError:
            self.timeouts += 1
            self.server.close()
            self.server = None
            return None
        if reply.status != 200:
            raise SystemExit(f"status {reply.status}: {answer}")
        return answer["message"]["content"]

    def write(self, row, answer):
        """Write an answer; it is committed afterwards."""
        quoted = answer.replace("'", "''")
        if self.query(f"UPDATE ticket SET label = '{quoted}' "
                      f"WHERE id = {row} RETURNING id;") != str(row):
            raise SystemExit(f"row {row} was not written")

    def work(self, rows, until):
        """Do rows until all are done or the time is over."""
        for row in rows:
            begin = time.monotonic()
            if begin > until:
                break
            for _ in range(self.args.attempts):
                answer = self.ask(row)
                if answer is not None:
                    self.write(row, answer)
                    self.times.append(time.monotonic() - begin)
                    break

    def result(self):
        """End the session; counts, times, CPU and memory."""
        with open(f"/proc/{self.backend}/stat", encoding="utf-8") as stat:
            ticks = stat.read().rsplit(")", 1)[1].split()[11:13]
        self.psql.stdin.close()
        self.psql.wait()
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF,
                                                    resource.RUSAGE_CHILDREN)]
        return (self.requests, self.timeouts, self.times,
                sum(u.ru_utime + u.ru_stime for u in used) +
                sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK"),
                sum(u.ru_maxrss for u in used))


def run(args, number, until, results):
    """One process."""
    client = Client(args)
    client.work(range(1 + number, args.rows + 1, args.processes), until)
    results.put(client.result())


def main():
    """All of them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=30)
    parser.add_argument("--attempts", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("url")
    parser.add_argument("rows", type=int)
    parser.add_argument("psql", nargs=argparse.REMAINDER)
    args = parser.parse_args()

    results = multiprocessing.Queue()
    begin = time.monotonic()
    processes = [multiprocessing.Process(
        target=run, args=(args, i, begin + args.seconds, results))
        for i in range(args.processes)]
    for process in processes:
        process.start()
    done = [results.get() for _ in processes]
    seconds = time.monotonic() - begin
    for process in processes:
        process.join()
    requests, timeouts, times, cpu, memory = zip(*done)
    times = sum(times, [])
    print(len(times), sum(requests), sum(timeouts), f"{seconds:.3f}",
          f"{sum(cpu):.3f}", sum(memory),
          f"{statistics.median(times) * 1000:.4f}" if times else 0)


if __name__ == "__main__":
    main()
