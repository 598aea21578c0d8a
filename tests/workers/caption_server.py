"""
An OpenAI-compatible server on loopback that describes images by what is in them: fixed latency and capacity, requests
beyond the capacity queue, faults on demand, the same ones every time in the order of arrival.

    python tests/workers/caption_server.py --latency 0.5 --capacity 64 --fault_rate 0.2 --faults 429 cut

Prints `{"port": ...}`; GET /stats gives counts as JSON. Answers are `number N` for pictures of
[`picture_of`], or with `--answer digest` a digest of the image as it was sent. Questions for a colour get the answers
of [`MODELS`], and are counted apart.
"""

import argparse
import asyncio
import base64
import hashlib
import io
import json
import random
from collections import Counter
from collections.abc import Mapping

import numpy as np
from aiohttp import web
from PIL import Image

CELLS = 4  # a side of the picture of a number
STATUS = {"429": 429, "429-wait": 429, "503": 503, "500": 500}
CONTENT = {"garbage": b'{"choices": [{"mess\xff', "no-choices": b'{"id": "1", "choices": []}'}
FAULTS = (*STATUS, "slow", "cut", "cut-body", *CONTENT)
WHICH_COLOUR = "Which colour"  # how the questions begin that show whether images arrive
COLOURS = {"red": "rot", "green": "grün", "blue": "blau", "yellow": "gelb"}
SHIFTED = {"red": "blue", "blue": "green", "green": "yellow", "yellow": "red"}
# Models, and what they say of an image by its colour and pixels a side
MODELS = {
    "tiny": lambda colour, side: f"A {colour} shape.",
    "drops": lambda colour, side: "A red circle on a white background.",
    "drops-and-rephrases": lambda colour, side: f"A red thing, perhaps {len(colour)} of them.",
    "drops-and-says-so": lambda colour, side: f"I'm sorry, I can't see the {len(colour)} images you mention.",
    "swaps": lambda colour, side: f"A {SHIFTED[colour]} shape.",
    "swaps-two": lambda colour, side: {"red": "blue", "blue": "red"}.get(colour, colour),
    "weak": lambda colour, side: "A blue square." if colour == "green" else f"A {colour} square.",
    "colour-blind": lambda colour, side: {"red": "green", "yellow": "green"}.get(colour, colour),
    "german": lambda colour, side: f"Ein {COLOURS[colour]}es Ding",
    "tags": lambda colour, side: f"simple_background, 1shape, {COLOURS[colour]}",
    "emoji": lambda colour, side: chr(0x1F7E0 + len(colour)),
    "plain-if-small": lambda colour, side: "I see a plain image." if side < 128 else colour,
    "says-nothing": lambda colour, side: "",
    "says-nothing-of-red": lambda colour, side: "" if colour == "red" else colour,
    "specialist": lambda colour, side: '{"species": "unknown"}',
}


def picture_of(number: int) -> Image.Image:
    """A number of 16 bits in black and white squares: no codec, scaling or sharpening changes what it says."""
    bits = [(number >> place) & 1 for place in range(CELLS * CELLS)]
    cells = np.array(bits, dtype=np.uint8).reshape(CELLS, CELLS) * 255
    return Image.fromarray(cells.repeat(8, 0).repeat(8, 1)).convert("RGB")


def number_in(picture: Image.Image) -> int:
    """Inverse of [`picture_of`], at any size."""
    cells = np.asarray(picture.convert("L").resize((CELLS, CELLS), Image.Resampling.BOX)) > 127
    return sum(int(bit) << place for place, bit in enumerate(cells.ravel()))


def colour_in(picture: Image.Image) -> str:
    """That of its centre."""
    red, green, blue = picture.convert("RGB").getpixel((picture.width // 2, picture.height // 2))
    if red > 128:
        return "yellow" if green > 128 else "red"
    return "blue" if blue > green else "green"


def error(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"error": {"message": message}}, status=status, headers=headers)


class CaptionServer:
    """
    A reply counts as whole once all of it has left for a client that is still there. `asked_again` counts requests
    whose body equals that of a request with a whole reply: it must stay 0. Bodies of different questions must differ,
    so images must.
    """

    def __init__(self, args: argparse.Namespace):
        self.args, self.random = args, random.Random(0)
        self.places = asyncio.Semaphore(args.capacity)
        self.counts: Counter[str] = Counter()
        self.replies: Counter[str] = Counter()  # digest of a body -> whole replies
        self.in_flight = self.peak_in_flight = 0
        self.authorization: set[str] = set()
        self.connections: set[tuple] = set()

    def stats(self) -> dict:
        found = {name: self.counts[name] for name in ("requests", "asked_again", "colours")}
        found |= {"whole": self.replies.total(), "distinct": len(+self.replies)}
        found |= {"in_flight": self.in_flight, "peak_in_flight": self.peak_in_flight}
        found |= {"connections": len(self.connections), "authorization": sorted(self.authorization)}
        return found | {"faults": {kind: self.counts[kind] for kind in FAULTS if self.counts[kind]}}

    async def serve(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/stats":
            return web.json_response(self.stats())
        if request.path.endswith("/models"):
            models = [{"id": name} for name in ("tiny", "another")]
            return web.json_response({"object": "list", "data": models})
        if request.path != "/v1/chat/completions":
            return error(404, f"no {request.path}")
        self.in_flight += 1
        try:
            return await self.serve_completion(request)
        finally:  # also for a client that is gone: it cancels what is done for it
            self.in_flight -= 1

    async def serve_completion(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        asks_colour = WHICH_COLOUR.encode() in body
        digest = hashlib.blake2b(body, digest_size=16).hexdigest()
        self.connections.add(request.transport.get_extra_info("peername"))
        self.counts["colours" if asks_colour else "requests"] += 1
        self.counts["asked_again"] += self.replies[digest] > 0
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        if "authorization" in request.headers:
            self.authorization.add(request.headers["authorization"])
        fault = self.random.choice(self.args.faults) if self.random.random() < self.args.fault_rate else None
        self.counts[fault or "none"] += 1
        if fault == "cut":
            request.transport.close()
            return web.Response()
        if fault == "slow":
            await asyncio.sleep(self.args.slow_seconds)
        if fault in STATUS:
            wait = {"retry-after": str(self.args.retry_after)} if fault == "429-wait" else {}
            reply = error(STATUS[fault], f"fault {fault}", wait)
        elif fault in CONTENT:
            reply = web.Response(body=CONTENT[fault], content_type="application/json")
        else:
            reply = await self.answer(request.headers, body)
        if fault == "cut-body":
            half = web.StreamResponse(headers={"Content-Length": str(len(reply.body))})
            await half.prepare(request)
            await half.write(reply.body[: len(reply.body) // 2])
            request.transport.close()
            return half
        await reply.prepare(request)
        await reply.write_eof()
        is_there = request.transport is not None and not request.transport.is_closing()
        self.replies[digest] += not asks_colour and fault in (None, "slow") and reply.status == 200 and is_there
        return reply

    async def answer(self, headers: Mapping[str, str], body: bytes) -> web.Response:
        if self.args.always:
            await asyncio.sleep(self.args.latency)
            wait = {"retry-after": self.args.retry_after} if self.args.always in (429, 500) else {}
            return error(self.args.always, self.args.say or "always", wait)
        if self.args.token and headers.get("authorization") != f"Bearer {self.args.token}":
            return error(401, f"wrong token: {headers.get('authorization')}")
        asked = json.loads(body)
        if asked["model"] not in MODELS:
            return error(404, f"no model {asked['model']}")
        async with self.places:
            await asyncio.sleep(self.args.latency)
        return self.completion(asked)

    def completion(self, asked: dict) -> web.Response:
        content = asked["messages"][0]["content"]
        image, text = content if content[0]["type"] == "image_url" else reversed(content)
        kind, _, code = image["image_url"]["url"].partition(",")
        assert kind == "data:image/jpeg;base64", kind
        picture = Image.open(io.BytesIO(base64.b64decode(code)))
        number = number_in(picture)
        answer = f"number {number}"
        if self.args.answer == "digest":
            answer = hashlib.blake2b(code.encode(), digest_size=8).hexdigest()
        if text["text"].startswith(WHICH_COLOUR):
            answer = MODELS[asked["model"]](colour_in(picture), picture.width)
        if text["text"].startswith("Which of these"):
            names = text["text"].partition("? ")[2].partition(". Answer")[0].split("; ")
            names = [name.partition(" (")[0] for name in names]  # without descriptions
            chosen = number if number < 256 else number.bit_count()  # other pictures are mostly white
            name = [*names, "none of these"][chosen % (len(names) + 1)]
            answer = f"It shows {name}."
            if form := asked.get("response_format"):
                choices = form["json_schema"]["schema"]["properties"]["answer"]["enum"]
                if self.args.no_schemas or choices != [*names, "none of these"] or content[0] is not text:
                    return error(400, "response_format is not supported, or the list is not first")
                answer = json.dumps({"answer": name})
        if answer.startswith("number") and number in self.args.reject:
            return error(400, self.args.say or "this picture is not allowed: " + image["image_url"]["url"])
        if answer.startswith("number") and number in self.args.crash:
            return error(500, "this picture breaks the model")
        if self.args.echo:
            answer += f" {text['text']} { ({name: asked[name] for name in sorted(asked) if name != 'messages'}) }"
        message = {"role": "assistant", "content": answer}
        if self.args.message and not text["text"].startswith(WHICH_COLOUR):
            message |= json.loads(self.args.message)
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 7, "completion_tokens": 3}
        return web.json_response({"id": "1", "choices": [choice], "usage": usage})


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fault_rate", type=float, default=0.0, help="share of the requests that meet a fault")
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=list(FAULTS))
    parser.add_argument("--retry_after", default="1", help="value of the header of 429-wait")
    parser.add_argument("--slow_seconds", type=float, default=1.0)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds")
    parser.add_argument("--capacity", type=int, default=1024, help="requests that are worked on at the same time")
    parser.add_argument("--answer", choices=("number", "digest"), default="number")
    parser.add_argument("--token", help="wanted, else 401")
    parser.add_argument("--always", type=int, default=0, help="status of every reply")
    parser.add_argument("--say", type=json.loads, help="JSON: the message of --always and --reject")
    parser.add_argument("--no_schemas", action="store_true", help="a JSON schema gets a 400")
    parser.add_argument("--echo", action="store_true", help="answers also hold the prompt and the options")
    parser.add_argument("--reject", type=int, nargs="*", default=[], help="numbers that get a 400")
    parser.add_argument("--crash", type=int, nargs="*", default=[], help="numbers that always get a 500")
    parser.add_argument("--message", help="JSON that is merged into the message")
    return parser.parse_args()


async def main() -> None:
    args = arguments()
    app = web.Application(client_max_size=1 << 22)
    app.router.add_route("*", "/{path:.*}", CaptionServer(args).serve)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    print(json.dumps({"port": runner.addresses[0][1]}), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
