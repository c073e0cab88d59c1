"""A server of the live page, as the command line starts it."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request

from tests.clock import HANG_S

JOB = {"topology": "dgx-h100", "workload": "mistral-7b-lora"}


class Server:
    """A server of its own, as the command line starts it."""

    def __init__(self, limit_s: int = 300, **variables: str) -> None:
        """Its limit is far from what a request takes where other programs have the processor."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sim", "serve", "--port", "0", "--limit", str(limit_s)],
            stdout=subprocess.PIPE, text=True, env={**os.environ, **variables},
        )  # fmt: skip
        self.address = self.process.stdout.readline().strip()
        self.base, _, self.token = self.address.partition("/?token=")

    def ask(self, path, body=None, **headers):
        """Status, headers and text of an answer."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        known = {"Authorization": f"Bearer {self.token}"}
        if data is not None:
            known["Content-Type"] = "application/json"
        known |= {key.replace("_", "-"): value for key, value in headers.items()}
        request = urllib.request.Request(self.base + path, data, known)
        try:
            with urllib.request.urlopen(request, timeout=HANG_S) as answer:
                return answer.status, answer.headers, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read().decode()

    def run(self, **body):
        status, _, text = self.ask("/api/run", {**JOB, **body})
        return status, json.loads(text)

    def close(self):
        """Stop it."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(HANG_S)
        self.process.stdout.close()
