"""
Writes answers into a journal and prints the number of each as soon as it is durable.

    python journal_writer.py FOLDER NAME COUNT CHARACTERS [limit BYTES | forget | pieces]

Question i is `NAME-i`; its text is as long as said. With `limit`, no file may grow beyond so many bytes: writes fail
then as on a full disk. With `forget`, the writer is never closed. With `pieces`, every write takes 700 bytes at most
and a moment, so that a kill finds a line half written.
"""

import os
import resource
import sys
import time

from g4i_hf.captioning.answers import OK, Answer, Question
from g4i_hf.captioning.journal.keys import Keys
from g4i_hf.captioning.journal.reader import JournalWriter

KEYS = Keys({"model": "tiny"})


def question_of(name: str, number: int) -> Question:
    image_id, prompt = f"{name}-{number}", "Describe this image in detail."
    return Question(
        image_id=image_id,
        image={"bytes": b"", "path": None},
        prompt=prompt,
        key=KEYS.key(image_id, prompt),
        place=KEYS.place(image_id, number, 1, prompt),
        source=image_id,
        size=number,
        mtime=1,
    )


def text_of(name: str, number: int, characters: int) -> str:
    return (f"{name} {number} " * (characters // 6 + 1))[:characters]


def write_a_piece(descriptor: int, content: bytes, whole=os.write) -> int:
    if descriptor == 1:
        return whole(descriptor, content)
    time.sleep(0.001)
    return whole(descriptor, content[:700])


def main() -> None:
    folder, name, count, characters, *ending = sys.argv[1:]
    if ending[:1] == ["limit"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(ending[1]), int(ending[1])))
    if ending == ["pieces"]:
        os.write = write_a_piece
    writer = JournalWriter(folder)
    failures = []
    for number in range(int(count)):
        try:
            writer.append(
                question_of(name, number),
                Answer(OK, text_of(name, number, int(characters))),
                on_durable=lambda number=number: os.write(1, b"%d\n" % number),
            )
        except OSError as error:
            failures.append(error)
            break
        time.sleep(0)  # lets the writer's thread in, so that batches are of all sizes
    if ending == ["forget"]:
        return
    for call in (writer.flush, writer.close):
        try:
            call()
        except (OSError, ValueError) as error:
            failures.append(error)
    for error in failures:
        print(f"{type(error).__name__} {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
