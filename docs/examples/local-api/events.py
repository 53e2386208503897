"""Calls a function with each config as it is now, at each change, and when a lock is lost. Goes on where it was after a break."""

import json
import os
import time
import urllib.request

URL = os.environ.get("QUORATE_URL", "http://localhost:8082")


def listen():
    last = ""
    while True:
        try:
            request = urllib.request.Request(f"{URL}/v1/events", headers={"Last-Event-ID": last})
            # Something comes every 15 seconds.
            with urllib.request.urlopen(request, timeout=45) as stream:
                kind = ""
                for line in stream:
                    field, _, value = line.decode().rstrip("\n").partition(": ")
                    if field == "id":
                        last = value
                    elif field == "event":
                        kind = value
                    elif field == "data":
                        yield kind, json.loads(value)
        except OSError:
            time.sleep(1)


for kind, event in listen():
    if kind == "config":
        print(f"{event['config']} is at revision {event['revision']}", flush=True)
    elif kind == "lock-lost":
        print(f"lock {event['lock']} is lost: {event['reason']}", flush=True)
    if os.environ.get("EVENTS") == "1":
        break
