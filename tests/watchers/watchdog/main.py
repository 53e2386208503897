"""Says what the file has: first, and each time that watchdog tells that the set was switched."""

import json
import sys
import threading
from pathlib import Path

from watchdog.events import FileSystemEventHandler
from watchdog.observers import Observer

directory, file = Path(sys.argv[1]), Path(sys.argv[1], sys.argv[2])


def say():
    # The file has a value and many copies of it: one that is cut short, or made of two, has not.
    content = json.loads(file.read_text())
    value, copies = content["value"], content["copies"]
    for other in set(copies) - {value}:
        print("mixed:", value, other, flush=True)
    print("saw", value, len(copies), flush=True)


class Switched(FileSystemEventHandler):
    def on_moved(self, event):
        if Path(event.dest_path).name == "..data":
            say()


say()
observer = Observer()
observer.schedule(Switched(), str(directory))
observer.start()
print("watches", flush=True)
threading.Event().wait()
