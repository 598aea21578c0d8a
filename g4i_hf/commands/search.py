"""Find images by a text, with an aligned student.

    g4i search runs/pictures/with_captions-0 "a red flower" --images pictures/validation
    g4i search me/my-student "a red flower" --images holiday --top_k 20 --page found.html

Prints the best images with their cosine. Embeddings of the images are kept in the run folder for the next query.
"""

from pathlib import Path

from ..cli import check_paths, quiet_libraries, say
from ..options import OPTIONS_OF

OPTIONS = OPTIONS_OF["search"]
DEFAULT_CONFIG = None


def check(args) -> None:
    check_paths(images=args.images)


def run(args) -> None:
    from ..captioning.report import Shown, thumbnail, write_page
    from ..zero_shot import ImageSearch

    quiet_libraries(True)
    cache = Path(args.run) / "search" if Path(args.run).is_dir() else None
    given = {"text_encoder": args.text_encoder} if args.text_encoder else {}
    found = ImageSearch(args.run, args.images, cache=cache, **given)(args.query, args.top_k)
    for each in found:
        say(f"{each['score']:.3f}  {each['image']}")
    if args.page:
        shown = [
            Shown(
                picture=thumbnail([{"image": {"bytes": None, "path": each["image"]}}], 0),
                caption=each["image"],
                notes=[f"cosine {each['score']:.3f}"],
            )
            for each in found
        ]
        write_page(args.page, args.query, paragraphs=[f"The nearest of the images in {args.images}."], shown=shown)
        say(f"page: {args.page}")
