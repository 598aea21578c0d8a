"""
A page that classifies images in the browser: static files, for any server.

    python recipes/web/build.py runs/pictures/classifier site
"""

import argparse
import base64
import hashlib
import io
import json
import shutil
import sys
import tarfile
import urllib.request
from pathlib import Path

import jinja2
import onnxruntime

from g4i_hf import pages
from g4i_hf.files import replacing
from g4i_hf.hub.formats import FILES, ONNX, ONNX_FP16

HERE = Path(__file__).parent
RUNTIME = "https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-1.30.0.tgz"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
# WebAssembly alone
OF_RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
MARK = ".g4i_web.json"  # of a folder that may be replaced


def build(release: Path, site: Path, runtime: str | None) -> int:
    """Write the page; returns its bytes. ValueError for a release without a graph, or whose images need Python."""
    graph = next((release / FILES[name] for name in (ONNX_FP16, ONNX) if (release / FILES[name]).is_file()), None)
    if graph is None:
        raise ValueError(f"{release} holds no graph. Make one: g4i release --run RUN --formats {ONNX_FP16}.")
    metadata = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"]).get_modelmeta()
    known = {name: json.loads(text) for name, text in metadata.custom_metadata_map.items()} | {"graph": graph.name}
    if known.get("resize") is None:
        raise ValueError(f"{release} resizes images in a way that only its image processor knows; the page cannot.")
    config = json.loads((release / "config.json").read_text(encoding="utf-8"))
    decision = config.get("decision_thresholds", {}).get("0.95", {})
    if site.exists() and any(site.iterdir()) and not (site / MARK).is_file():
        raise ValueError(f"{site} holds something else than a page. Choose another folder.")
    with replacing(site) as folder:
        unpack(runtime, folder)
        shutil.copyfile(graph, folder / graph.name)
        for name in ("page.js", "resize.js"):
            shutil.copyfile(HERE / name, folder / name)
        shown = {"known": known, "threshold": decision.get("threshold"), "is_certain": decision.get("certain")}
        (folder / "index.html").write_text(rendered(**shown), encoding="utf-8")
        (folder / MARK).write_text("{}\n", encoding="utf-8")
        return sum(path.stat().st_size for path in folder.iterdir())


def unpack(runtime: str | None, folder: Path) -> None:
    """The three files of ONNX Runtime Web, from npm or a file of it, by its digest."""
    if runtime is None:
        with urllib.request.urlopen(RUNTIME, timeout=60) as response:
            content = response.read()
    else:
        content = Path(runtime).read_bytes()
    if base64.b64encode(hashlib.sha512(content).digest()).decode() != SHA512:
        raise ValueError(f"{runtime or RUNTIME} is not the file of ONNX Runtime Web that this page was tested with.")
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for name in OF_RUNTIME:
            (folder / name).write_bytes(archive.extractfile(f"package/dist/{name}").read())


def rendered(**shown) -> str:
    folders = jinja2.FileSystemLoader([HERE, Path(pages.__file__).parent])
    environment = jinja2.Environment(loader=folders, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("web.html.j2").render(title="Which class?", **shown)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("release", type=Path, help="folder of g4i release --formats onnx-fp16")
    parser.add_argument("site", type=Path, help="folder to write")
    parser.add_argument("--runtime", help=f"file of {RUNTIME}, if this machine is offline")
    args = parser.parse_args()
    try:
        size = build(args.release, args.site, args.runtime)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(f"{args.site}: {size / 1e6:.1f} MB. To see it: python -m http.server -d {args.site} -b 127.0.0.1")
