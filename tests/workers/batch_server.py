"""
An OpenAI-compatible batch API on loopback: files are uploaded, batches made, polled and their results fetched. A
picture of caption_server.py is answered with its number, between separators that are lines to `str.splitlines` alone.

    python tests/workers/batch_server.py --polls 3 --expire 0.2

Prints `{"port": ...}`; GET /stats gives counts as JSON.
"""

import argparse
import asyncio
import base64
import io
import json
import random
from collections import Counter
from email.parser import BytesParser

from caption_server import number_in
from faults import Connection, Faults, Reply, Request, add_arguments, listen
from PIL import Image


class BatchServer:
    def __init__(self, args: argparse.Namespace):
        self.args, self.faults, self.random = args, Faults(args), random.Random(args.seed)
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict] = {}
        self.asked: Counter[int] = Counter()

    async def handle(self, connection: Connection, request: Request) -> None:
        path = request.path.split("?")[0].removeprefix("/v1")
        if path != "/asked" and self.faults.pick():  # before anything is done: a client may send it again
            self.faults.counts["500"] += 1
            await connection.reply(Reply(500, b'{"error": {"message": "fault"}}'))
        elif path == "/files":
            await connection.reply(Reply(200, json.dumps(self.upload(request)).encode()))
        elif path == "/batches" and request.method == "POST":
            reply = Reply(200, json.dumps(self.create(json.loads(request.body))).encode())
            await connection.reply(reply, cut=len(self.batches) <= self.args.lose)
        elif path == "/batches":
            page = {"object": "list", "data": list(self.batches.values()), "has_more": False}
            await connection.reply(Reply(200, json.dumps(page).encode()))
        elif path.startswith("/batches/") and path.split("/")[2] in self.batches:
            await connection.reply(Reply(200, json.dumps(self.poll(path.split("/")[2])).encode()))
        elif path.endswith("/content"):
            await connection.reply(Reply(200, self.files[path.split("/")[2]]))
        elif path == "/asked":
            for batch in self.batches.values():  # they go on whether anybody asks for them or not
                if batch["status"] in ("validating", "in_progress"):
                    batch["status"] = self.end(batch)
            await connection.reply(Reply(200, json.dumps(self.asked).encode()))
        else:
            await connection.reply(Reply(404, b'{"error": {"message": "no such path"}}'))

    def upload(self, request: Request) -> dict:
        form = BytesParser().parsebytes(
            b"content-type: " + request.headers["content-type"].encode() + b"\n\n" + request.body
        )
        content = next(
            part for part in form.get_payload() if part.get_param("name", header="content-disposition") == "file"
        )
        name = f"file-{len(self.files)}"
        self.files[name] = content.get_payload(decode=True)
        return {"id": name, "object": "file", "bytes": len(self.files[name]), "created_at": 0, "filename": name,
                "purpose": "batch", "status": "processed"}  # fmt: skip

    def create(self, asked: dict) -> dict:
        lines = self.files[asked["input_file_id"]].splitlines()
        name = f"batch-{len(self.batches)}"
        self.batches[name] = {
            **{"id": name, "object": "batch", "created_at": 0, "status": "validating", "metadata": asked["metadata"]},
            **{"endpoint": asked["endpoint"], "completion_window": "24h", "input_file_id": asked["input_file_id"]},
            **{"request_counts": {"total": len(lines), "completed": 0, "failed": 0}, "polls": 0},
        }
        return self.batches[name]

    def poll(self, name: str) -> dict:
        batch = self.batches[name]
        batch["polls"] += 1
        if batch["status"] in ("validating", "in_progress"):
            batch["status"] = "in_progress" if batch["polls"] < self.args.polls else self.end(batch)
        return batch

    def end(self, batch: dict) -> str:
        if self.args.refuse:
            batch["errors"] = {"object": "list", "data": [{"code": "x", "message": self.args.refuse}]}
            return "failed"
        output, errors = [], []
        for line in self.files[batch["input_file_id"]].splitlines():
            request = json.loads(line)
            number = self.number_of(request["body"])
            if self.random.random() < self.args.expire:
                said = {"custom_id": request["custom_id"], "response": None, "error": {"code": "batch_expired"}}
                errors.append(said)
                continue
            self.asked[number] += 1
            if number in self.args.reject:
                reply = {"status_code": 400, "body": {"error": {"message": "this picture is not allowed"}}}
                errors.append({"custom_id": request["custom_id"], "response": reply, "error": None})
                continue
            message = {"role": "assistant", "content": f"number\u2028{number}\u0085"}
            body = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
            body["usage"] = {"prompt_tokens": 7, "completion_tokens": 3}
            output.append({"custom_id": request["custom_id"], "response": {"status_code": 200, "body": body}})
        self.random.shuffle(output)  # they come in any order
        for kind, lines in (("output", output), ("error", errors)):
            if lines:
                text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
                self.files[f"{kind}-{batch['id']}"] = text.encode()
                batch[f"{kind}_file_id"] = f"{kind}-{batch['id']}"
        batch["request_counts"] |= {"completed": len(output), "failed": len(errors)}
        return "expired" if self.args.expire else "completed"

    def number_of(self, body: dict) -> int:
        code = body["messages"][0]["content"][0]["image_url"]["url"].partition(",")[2]
        return number_in(Image.open(io.BytesIO(base64.b64decode(code))))


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--polls", type=int, default=2, help="after so many a batch has ended")
    parser.add_argument(
        "--expire", type=float, default=0.0, help="share of the questions that are not answered in time"
    )
    parser.add_argument("--reject", type=int, nargs="*", default=[], help="numbers that get a 400")
    parser.add_argument("--lose", type=int, default=0, help="batches whose making is not confirmed: the reply is cut")
    parser.add_argument("--refuse", help="why every batch is refused")
    args = parser.parse_args()
    server = BatchServer(args)
    await listen(args.port, server.faults, server.handle)


if __name__ == "__main__":
    asyncio.run(main())
