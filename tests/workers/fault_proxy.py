"""
A loopback proxy before a real OpenAI-compatible server, which injects faults into chat completions and counts replies
that were delivered whole (see faults.py). Everything else passes through.

    python tests/workers/fault_proxy.py --upstream http://127.0.0.1:8000 --fault_rate 0.2 --seed 1

Prints `{"port": ...}`; clients use `http://127.0.0.1:PORT/v1`. GET /stats gives JSON: `requests` (chat completions),
`whole` (good replies delivered whole), `distinct` (different bodies among them), `asked_again` (requests whose body
had got a whole reply before), `faults` (how often each), `connections`, `peak_in_flight`, `authorization` (values of
that header). `--forward_concurrency` spares a server that does one thing at a time.
"""

import argparse
import asyncio

import httpx2
from faults import Connection, Faults, Reply, Request, add_arguments, listen

PASSED_ON = {"authorization", "content-type", "accept"}
PASSED_BACK = {"content-type", "retry-after"}


class FaultProxy:
    def __init__(self, args: argparse.Namespace, client: httpx2.AsyncClient):
        self.args, self.client, self.faults = args, client, Faults(args)
        self.places = asyncio.Semaphore(args.forward_concurrency)

    async def handle(self, connection: Connection, request: Request) -> None:
        if request.path.endswith("/chat/completions"):
            await self.faults.serve(connection, request, lambda: self.forward(request))
        else:
            await connection.reply(await self.forward(request))

    async def forward(self, request: Request) -> Reply:
        headers = {name: value for name, value in request.headers.items() if name in PASSED_ON}
        url = self.args.upstream.rstrip("/") + request.path
        async with self.places:
            try:
                reply = await self.client.request(request.method, url, content=request.body, headers=headers)
            except httpx2.TransportError as error:
                return Reply(502, f"upstream: {type(error).__name__}".encode())
        kept = {name: value for name, value in reply.headers.items() if name.lower() in PASSED_BACK}
        return Reply(reply.status_code, reply.content, kept)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--upstream", required=True, help="address of the real server, without /v1")
    parser.add_argument("--forward_concurrency", type=int, default=64, help="requests at the real server at a time")
    parser.add_argument("--forward_timeout", type=float, default=300.0, help="seconds")
    args = parser.parse_args()
    limits = httpx2.Limits(keepalive_expiry=1.0)
    async with httpx2.AsyncClient(timeout=args.forward_timeout, limits=limits, trust_env=False) as client:
        proxy = FaultProxy(args, client)
        await listen(args.port, proxy.faults, proxy.handle)


if __name__ == "__main__":
    asyncio.run(main())
