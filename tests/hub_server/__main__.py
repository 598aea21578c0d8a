"""
Serves a Hub on loopback until stopped:

    python tests/hub_server --port 8000 --folder runs/hub

Clients need HF_ENDPOINT=<its address>, HF_HUB_DISABLE_XET=1 and HF_TOKEN=hf_me_write. To look at private
repositories of a folder with a browser, add --visitor hf_me_read.
"""

import argparse
import contextlib
import sys
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).parent.parent)  # run by its folder's name: the folder is a package all the same
    __package__ = "hub_server"

from .server import Hub


def main() -> None:
    parser = argparse.ArgumentParser("hub_server", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="0, the default, for a free one")
    parser.add_argument("--folder", type=Path, help="where repositories are kept; gone at the end by default")
    parser.add_argument("--page", type=int, default=1000, help="lines of a listing at once")
    parser.add_argument("--visitor", help="token of requests that bring none; anonymous by default")
    options = parser.parse_args()
    hub = Hub(options.port, options.folder, options.page, options.visitor)
    print(hub.url, flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        hub.serve_forever()


if __name__ == "__main__":
    main()
