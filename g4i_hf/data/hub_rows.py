"""Check what rows of a Hub dataset name in place of images: no local file, no address of this network."""

import ipaddress
import os
import socket
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from datasets import Dataset
from datasets.config import DOWNLOADED_DATASETS_PATH, HF_CACHE_HOME, HF_DATASETS_CACHE
from datasets.features.features import require_storage_embed
from huggingface_hub.constants import HF_HUB_CACHE

from .. import columns
from .images import image_paths

# Addresses that a row may name, and archives that the image may lie in there
SERVERS = ("hf://", "http://", "https://")
ARCHIVES = ("zip://", "tar://", "gzip://", "bz2://", "lz4://", "xz://", "zstd://")
GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
# Of IPv6, the last 32 bits are an IPv4 address: mapped, compatible (with :: and ::1), translated by NAT64
HOLD_IPV4 = [ipaddress.ip_network(network) for network in ("::ffff:0:0/96", "::/96", "64:ff9b::/96")]


def check_files(split: Dataset, split_name: str, hub_id: str) -> None:
    """
    Raises a ValueError for the first image of a split of the Hub that is a local file or an address, which only
    streams open. Files in the caches of `datasets` and `huggingface_hub` are allowed: the dataset itself lies there.
    """
    caches = [os.path.abspath(cache) for cache in (HF_CACHE_HOME, HF_DATASETS_CACHE, DOWNLOADED_DATASETS_PATH)]
    caches.append(os.path.abspath(HF_HUB_CACHE))
    for row, (path, has_bytes) in enumerate(image_paths(split)):
        if has_bytes or not path:
            continue
        if is_remote(path) or not any(Path(os.path.abspath(path)).is_relative_to(cache) for cache in caches):
            where = f"{hub_id}, split {split_name!r}, column {columns.IMAGE!r}, row {row}"
            check_path(path, where)
            what = f"{where}: names the address {path!r} in place of an image"
            raise ValueError(f"{what}. Download it into a folder; or caption with --streaming true, which reads it.")


def file_columns(split: Dataset) -> list[str]:
    """Columns of images, sound or other files, which `datasets` opens with any row."""
    return [column for column, feature in split.features.items() if require_storage_embed(feature)]


def check_path(path: str, where: str) -> None:
    """
    Checks what a row names in place of an image, before `datasets` opens it: a ValueError for a local file, a host
    whose address is not global (loopback, private, link-local, ...; by number or by name), or another protocol.

    Not covered: redirects by a public server; a host name that resolves to another address when the image is opened,
    or that only a proxy can resolve; and `hf://`, which is opened with the user's token.
    """
    if not is_remote(path) or not _is_public(path):
        raise ValueError(
            f"{where}: names the file {path!r} in place of an image, which is on this machine, in its network, or at "
            "no address that is opened (hf, http, https). If you trust the dataset, open a copy of it in a folder."
        )


def is_remote(path: str) -> bool:
    """Whether a file is on a server, also within an archive there, as `zip://a.png::https://...`."""
    *archives, address = path.split("::")
    return address.startswith(SERVERS) and all(archive.startswith(ARCHIVES) for archive in archives)


def _is_public(path: str) -> bool:
    address = path.split("::")[-1]
    if address.startswith("hf://"):
        return True
    try:
        host = urlsplit(address).hostname
    except ValueError:
        return False
    return host is not None and all(map(_is_global, _addresses_of(host.rstrip("."))))


@lru_cache(maxsize=100_000)
def _addresses_of(host: str) -> frozenset[str]:
    """Of a host as it is resolved when it is opened, also numbers such as 2130706433 or 0x7f.1."""
    try:
        return frozenset(str(found[4][0]) for found in socket.getaddrinfo(host, None))
    except (OSError, UnicodeError):  # there is none
        return frozenset()


def _is_global(address: str) -> bool:
    found = ipaddress.ip_address(address)
    if found.version == 6:
        holds_ipv4 = any(found in network for network in HOLD_IPV4)
        found = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF) if holds_ipv4 else found.sixtofour or found
    return found.is_global and not found.is_multicast and (found.version == 4 or found in GLOBAL_UNICAST)
