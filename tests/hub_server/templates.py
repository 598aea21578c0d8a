"""The files that a new repository begins with."""

_BINARY = (
    "7z arrow bin bz2 ckpt ftz gz h5 joblib mlmodel model msgpack npy npz onnx ot parquet pb pickle pkl pt pth rar"
)
_BINARY += " safetensors tar tflite tgz wasm xz zip zst"
_MEDIA = "pcm sam raw aac flac mp3 ogg wav bmp gif png tiff jpg jpeg webp mp4 webm"


def first_files(kind: str, id: str, settings: dict) -> dict[str, str]:
    """
    Args:
        kind: model, dataset or space.
        id: namespace/name.
        settings: of a Space: its sdk.

    Returns:
        Text by path.
    """
    endings = _BINARY.split() + (_MEDIA.split() if kind == "dataset" else [])
    patterns = [f"*.{ending}" for ending in endings] + ["saved_model/**/*", "*tfevents*"]
    files = {".gitattributes": "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in patterns)}
    if kind == "space":
        name = id.split("/")[1]
        sdk = settings.get("sdk", "static")
        header = f"title: {name}\nemoji: 🐠\ncolorFrom: blue\ncolorTo: green\nsdk: {sdk}\npinned: false\n"
        files["README.md"] = f"---\n{header}---\n\nThe configuration of a Space.\n"
        if sdk == "static":
            files["index.html"] = f"<!doctype html>\n<title>{name}</title>\n"
            files["style.css"] = "body { padding: 2rem; }\n"
    return files
