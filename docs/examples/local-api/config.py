"""Reads a file of config "web" as it is decided now; when that cannot be known, as it is on disk, and says how old."""

import os
import urllib.error
import urllib.request

FILE = os.environ.get("QUORATE_URL", "http://localhost:8082") + "/v1/configs/web/files/app.yaml"


def read(consistency):
    answer = urllib.request.urlopen(f"{FILE}?consistency={consistency}", timeout=10)
    return answer.read().decode(), answer.headers["Quorate-Revision"], answer.headers["Age"]


try:
    text, revision, age = read("strong")
except urllib.error.HTTPError as error:
    if error.code != 503:
        raise
    text, revision, age = read("weak")
print(f"revision {revision}, confirmed {age} s ago:")
print(text, end="")
