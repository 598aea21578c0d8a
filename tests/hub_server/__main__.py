"""
Serves a Hub on loopback until stopped:

    python tests/hub_server --port 8000

Clients need HF_ENDPOINT=<its address>, HF_HUB_DISABLE_XET=1 and HF_TOKEN=hf_me_write.
"""

import argparse
import contextlib
import sys
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).parent.parent)  # run by its folder's name: the folder is a package all the same
    __package__ = "hub_server"

from .server import Hub

parser = argparse.ArgumentParser("hub_server", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
parser.add_argument("--port", type=int, default=0, help="0, the default, for a free one")
options = parser.parse_args()
hub = Hub(options.port)
print(f"http://127.0.0.1:{hub.server_port}", flush=True)
with contextlib.suppress(KeyboardInterrupt):
    hub.serve_forever()
