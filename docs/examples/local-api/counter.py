"""Counts an order exactly once, however often the answer is lost, and takes a block of unique ids."""

import json
import os
import time
import urllib.error
import urllib.request
import uuid

URL = os.environ.get("QUORATE_URL", "http://localhost:8082")


def once(path, body):
    """Asks until there is an answer, under one key: what is done is done once. A key is kept for an hour at least."""
    headers = {"Content-Type": "application/json", "Idempotency-Key": str(uuid.uuid4())}
    for wait in (0.1, 0.5, 2, 5, None):
        try:
            request = urllib.request.Request(URL + path, json.dumps(body).encode(), headers)
            return json.load(urllib.request.urlopen(request, timeout=30))
        except urllib.error.HTTPError as error:
            problem = json.load(error)
            if error.code not in (503, 504) or wait is None:
                raise RuntimeError(problem["detail"])
        except OSError:
            if wait is None:
                raise
        time.sleep(wait)


print("order", once("/v1/counters/orders/add", {"by": 1})["value"])
block = once("/v1/counters/orders/ids", {"count": 3})
print("ids", list(range(block["first"], block["last"] + 1)))
