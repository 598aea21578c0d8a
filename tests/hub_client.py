"""
The test Hub in a process of its own, and clients of it in others: huggingface_hub reads its address when imported.

    with hub_client.serving() as hub:
        found = hub.run(script, tmp_path)
"""

import contextlib
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hub_server.accounts import ME_WRITE
from loaded import PYTHON

ROOT = Path(__file__).parent.parent
CLIENT = 240  # seconds that a client may take
# Variables of the test process that would reach into a client
FOREIGN = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE", "HF_DATASETS_CACHE")


@dataclass
class ServedHub:
    """
    Attributes:
        url: of the server.
        process: the server.
    """

    url: str
    process: subprocess.Popen | None = None

    def environment(self, home: Path, token: str | None = ME_WRITE, **more: str) -> dict[str, str]:
        """
        Environment of a client process.

        Args:
            home: folder of its caches; give each client a fresh one.
            token: HF_TOKEN; None for a client that has not logged in.
        """
        kept = {name: value for name, value in os.environ.items() if name not in (*FOREIGN, "HF_TOKEN")}
        # no proxy to loopback
        kept = {name: value for name, value in kept.items() if not name.lower().endswith("_proxy")}
        own = {
            "HF_ENDPOINT": self.url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tests" / "contract"))),
        }
        return kept | own | ({"HF_TOKEN": token} if token else {}) | more

    def run(self, script: str | Path, home: Path, *words: object, token: str | None = ME_WRITE, **more: str):
        """
        Runs a client in a process of its own.

        Args:
            script: file, or Python code; finds `words` in sys.argv[1:].
            home: folder of its caches.
            more: further variables of its environment.

        Returns:
            Its last line of output, which is JSON; None without output.

        Raises:
            AssertionError: when it fails; with what it printed.
        """
        command = [PYTHON, *([str(script)] if isinstance(script, Path) else ["-c", script]), *map(str, words)]
        environment = self.environment(home, token, **more)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=CLIENT)
        assert done.returncode == 0, f"the client failed:\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
        lines = done.stdout.strip().splitlines()
        return json.loads(lines[-1]) if lines else None

    def ask(self, method: str, path: str, value: dict | None = None, token: str | None = None):
        """
        One request without a client.

        Returns:
            Status, headers and body (JSON where it is JSON, else bytes).
        """
        data = None if value is None else json.dumps(value).encode()
        request = urllib.request.Request(self.url + path, data, method=method)
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)
        try:
            reply = opener.open(request, timeout=60)
        except urllib.error.HTTPError as error:
            reply = error
        with reply:
            body = reply.read()
        with contextlib.suppress(ValueError):
            body = json.loads(body)
        return reply.status, reply.headers, body

    def _administer(self, method: str, path: str, value: dict | None = None):
        status, _, body = self.ask(method, path, value)
        assert status == 200, body
        return body

    def fault(self, match: str, kind: object, **more) -> None:
        """Switches a fault on; see hub_server/server.py."""
        self._administer("POST", "/_faults", {"match": match, "kind": str(kind)} | more)

    def no_faults(self) -> None:
        self._administer("DELETE", "/_faults")

    def act(self, action: str, **arguments) -> dict:
        """Does something behind the clients' backs; see hub_server/server.py."""
        return self._administer("POST", f"/_admin/{action}", arguments)

    def state(self) -> dict:
        """All repositories with their branches and files."""
        return self._administer("GET", "/_admin/state")

    def log(self, match: str = "") -> list[dict]:
        """
        Requests so far whose "METHOD /path" has `match` in it.

        Returns:
            Of each the method, path, status (None: it got no reply) and bytes that were read of it.
        """
        lines = self._administer("GET", "/_log")
        return [line for line in lines if match in f"{line['method']} {line['path']}"]

    def clear_log(self) -> None:
        self._administer("DELETE", "/_log")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args):
        return None


@contextlib.contextmanager
def serving() -> Iterator[ServedHub]:
    command = [sys.executable, str(Path(__file__).parent / "hub_server")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        url = process.stdout.readline().strip()
        assert url, "the test Hub did not start"
        yield ServedHub(url, process)
    finally:
        process.terminate()
        process.wait(timeout=20)
        process.stdout.close()
