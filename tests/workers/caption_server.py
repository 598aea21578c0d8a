"""
An OpenAI-compatible server on loopback that describes images by what is in them: fixed latency and capacity, requests
beyond the capacity queue, faults on demand (see faults.py).

    python tests/workers/caption_server.py --latency 0.5 --capacity 64 --fault_rate 0.2 --faults 429 cut

Prints `{"port": ...}`; GET /stats gives counts as JSON. Answers are `number N` for pictures of
[`picture_of`], or with `--answer digest` a digest of the image as it was sent.
"""

import argparse
import asyncio
import base64
import hashlib
import io
import json

import numpy as np
from faults import Connection, Faults, Reply, Request, add_arguments, listen
from PIL import Image

CELLS = 4  # a side of the picture of a number


def picture_of(number: int, side: int = 32) -> Image.Image:
    """A number of 16 bits in black and white squares: no codec, scaling or sharpening changes what it says."""
    bits = [(number >> place) & 1 for place in range(CELLS * CELLS)]
    cells = np.array(bits, dtype=np.uint8).reshape(CELLS, CELLS) * 255
    return Image.fromarray(cells.repeat(side // CELLS, 0).repeat(side // CELLS, 1)).convert("RGB")


def number_in(picture: Image.Image) -> int:
    """Inverse of [`picture_of`], at any size."""
    cells = np.asarray(picture.convert("L").resize((CELLS, CELLS), Image.Resampling.BOX)) > 127
    return sum(int(bit) << place for place, bit in enumerate(cells.ravel()))


class CaptionServer:
    def __init__(self, args: argparse.Namespace):
        self.args, self.faults = args, Faults(args)
        self.places = asyncio.Semaphore(args.capacity)

    async def handle(self, connection: Connection, request: Request) -> None:
        if request.path.endswith("/models"):
            models = [{"id": name} for name in (self.args.model, "another")]
            await connection.reply(Reply(200, json.dumps({"object": "list", "data": models}).encode()))
        elif request.path != "/v1/chat/completions":
            await connection.reply(error(404, f"no {request.path}"))
        else:
            await self.faults.serve(connection, request, lambda: self.answer(request))

    async def answer(self, request: Request) -> Reply:
        if self.args.always:
            headers = {"retry-after": self.args.retry_after} if self.args.always in (429, 500) else {}
            return error(self.args.always, self.args.say or "always", headers)
        if self.args.token and request.headers.get("authorization") != f"Bearer {self.args.token}":
            return error(401, f"wrong token: {request.headers.get('authorization')}")
        asked = json.loads(request.body)
        if asked["model"] != self.args.model:
            return error(404, f"no model {asked['model']}")
        async with self.places:
            await asyncio.sleep(self.args.latency)
        return self.reply(asked)

    def reply(self, asked: dict) -> Reply:
        content = asked["messages"][0]["content"]
        image, text = content if content[0]["type"] == "image_url" else reversed(content)
        kind, _, code = image["image_url"]["url"].partition(",")
        assert kind == "data:image/jpeg;base64", kind
        if self.args.answer == "digest":
            answer = hashlib.blake2b(code.encode(), digest_size=8).hexdigest()
        else:
            answer = f"number {number_in(Image.open(io.BytesIO(base64.b64decode(code))))}"
        if text["text"].startswith("Which of these"):
            names = text["text"].partition("? ")[2].partition(". Answer")[0].split("; ")
            number = number_in(Image.open(io.BytesIO(base64.b64decode(code))))
            number = number if number < 256 else number.bit_count()  # other pictures are mostly white
            name = [*names, "none of these"][number % (len(names) + 1)]
            answer = f"It shows {name}."
            if form := asked.get("response_format"):
                choices = form["json_schema"]["schema"]["properties"]["answer"]["enum"]
                if self.args.no_schemas or choices != [*names, "none of these"] or content[0] is not text:
                    return error(400, "response_format is not supported, or the list is not first")
                answer = json.dumps({"answer": name})
        if self.args.echo:
            answer += f" {text['text']} { ({name: asked[name] for name in sorted(asked) if name != 'messages'}) }"
        number = int(answer.split()[1]) if answer.startswith("number") else -1
        if number in self.args.reject:
            return error(400, self.args.say or "this picture is not allowed: " + image["image_url"]["url"])
        if number in self.args.crash:
            return error(500, "this picture breaks the model")
        message = {"role": "assistant", "content": answer}
        message |= json.loads(self.args.message) if self.args.message else {}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        reply = {"id": "1", "object": "chat.completion", "created": 0, "model": asked["model"], "choices": [choice]}
        return Reply(200, json.dumps(reply | {"usage": usage}).encode())


def error(status: int, message: str, headers: dict[str, str] | None = None) -> Reply:
    return Reply(status, json.dumps({"error": {"message": message}}).encode(), headers or {})


def in_quotes(text: str) -> str:
    """A text of JSON, which may hold what no command line can."""
    return json.loads(f'"{text}"')


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds")
    parser.add_argument("--capacity", type=int, default=1024, help="requests that are worked on at the same time")
    parser.add_argument("--answer", choices=("number", "digest"), default="number")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--token", help="wanted, else 401")
    parser.add_argument("--always", type=int, default=0, help="status of every reply")
    parser.add_argument("--say", type=in_quotes, help="the message of --always and --reject, with escapes of JSON")
    parser.add_argument("--no_schemas", action="store_true", help="a JSON schema gets a 400")
    parser.add_argument("--echo", action="store_true", help="answers also hold the prompt and the options")
    parser.add_argument("--reject", type=int, nargs="*", default=[], help="numbers that get a 400")
    parser.add_argument("--crash", type=int, nargs="*", default=[], help="numbers that always get a 500")
    parser.add_argument("--message", help="JSON that is merged into the message")
    return parser.parse_args()


async def main() -> None:
    args = arguments()
    server = CaptionServer(args)
    await listen(args.port, server.faults, server.handle)


if __name__ == "__main__":
    asyncio.run(main())
