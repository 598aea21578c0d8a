"""Pushes folders, one a line of standard input (JSON: arguments of push_folder), and answers a line each."""

import json
import sys

from g4i_hf.hub.push import push_folder

print("ready", flush=True)
for line in sys.stdin:
    try:
        answer = {"url": push_folder(**json.loads(line))}
    except Exception as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    print(json.dumps(answer), flush=True)
