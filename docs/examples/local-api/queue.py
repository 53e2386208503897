"""Works on messages one by one, keeping each for as long as it takes. At least once: work must stand being done again."""

import json
import os
import threading
import urllib.error
import urllib.request

QUEUE = os.environ.get("QUORATE_URL", "http://localhost:8082") + "/v1/queues/mails"


def ask(path, **body):
    request = urllib.request.Request(f"{QUEUE}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=330) as answer:
            return json.loads(answer.read() or "null")
    except urllib.error.HTTPError as error:
        raise RuntimeError(json.load(error)["detail"]) from None


def work(message):
    print(f"attempt {message['attempts']} of {message['payload']}")


def handle(message):
    receipt, done = message["receipt"], threading.Event()

    def keep():
        while not done.wait(20):
            ask(f"{receipt}/extend", visibility=60)

    threading.Thread(target=keep, daemon=True).start()
    try:
        work(message)
        done.set()
        ask(f"{receipt}/ack")
    except Exception as error:
        done.set()
        # To be handed out again at once; after too many attempts it is a dead letter, with this reason.
        ask(f"{receipt}/release", message=str(error))
        raise


ask("messages", payload="hello", name="order-8")
while messages := ask("receive", wait=1, visibility=60)["messages"]:
    handle(messages[0])
