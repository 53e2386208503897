"""Runs a job under the lock "nightly", which is held for as long as the response stays open."""

import http.client
import json
import os
import threading
import urllib.parse


class Lock:
    """with Lock("nightly", wait=60) as lock: ... lock.token ... lock.lost.is_set() ..."""

    def __init__(self, name, **asked):
        self.path, self.asked, self.lost = f"/v1/locks/{name}/hold", asked, threading.Event()

    def __enter__(self):
        url = urllib.parse.urlsplit(os.environ.get("QUORATE_URL", "http://localhost:8082"))
        self.connection = http.client.HTTPConnection(url.netloc)
        self.connection.request("POST", self.path, json.dumps(self.asked), {"Content-Type": "application/json"})
        self.lines = self.connection.getresponse()
        if self.lines.status != 200:
            raise RuntimeError(json.load(self.lines)["detail"])
        self.token = json.loads(self.lines.readline())["token"]
        threading.Thread(target=self.watch, daemon=True).start()
        return self

    def watch(self):
        try:
            for line in self.lines:
                if json.loads(line)["event"] == "lost":
                    break
        except (OSError, ValueError, AttributeError, http.client.HTTPException):
            pass  # closed, by us or because the sidecar ended: either way it is not held any more
        self.lost.set()

    def __exit__(self, *_):
        # Not close(), which would wait for what the thread reads.
        self.connection.sock.shutdown(2)


with Lock("nightly", wait=60, ttl=15) as lock:
    for step in range(3):
        if lock.lost.is_set():
            raise SystemExit("the lock is lost: what it protects must stop")
        print(f"step {step} under token {lock.token}")
