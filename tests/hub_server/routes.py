"""Which function answers which request."""

from . import pages, reading, uploads, writing
from .cards import check_card
from .exchange import Reply, Request
from .refusals import Refusal, no_entry, no_repository
from .repository import Repository
from .store import KINDS, Store

PLURALS = {f"{kind}s": kind for kind in KINDS}
# What may follow on a repository's name in the API
PARTS = frozenset(
    ("revision", "tree", "paths-info", "refs", "commits", "preupload", "commit", "branch", "tag", "settings")
    + ("discussions", "runtime", "secrets", "variables", "auth-check")
)


def answer(store: Store, request: Request, page: int) -> Reply:
    """
    Args:
        page: lines of a listing at once.

    Raises:
        Refusal: for what cannot be answered; 501 for what this server does not know.
    """
    first = request.segments[0]
    if first == "api":
        return of_api(store, request, page)
    if first == "lfs":
        return of_lfs(store, request)
    if first == "cdn" and len(request.segments) >= 5 and request.method in ("GET", "HEAD"):
        kind, namespace, name, oid = request.segments[1:5]
        return reading.stored(store, request, existing(store, kind, f"{namespace}/{name}"), oid)
    return of_web(store, request)


def unknown(request: Request) -> Refusal:
    remedy = ": set HF_HUB_DISABLE_XET=1" if "/xet-" in request.path else ""
    return Refusal(501, f"This test server does not know {request.method} {request.path}{remedy}")


def existing(store: Store, plural: str, id: str) -> Repository:
    repository = store.repositories.get((PLURALS.get(plural, ""), id))
    if repository is None:
        raise no_repository(anonymous=False)
    return repository


def of_api(store: Store, request: Request, page: int) -> Reply:
    method, segments = request.method, request.segments[1:]
    path = "/".join(segments)
    if (method, path) == ("GET", "whoami-v2"):
        if request.token is None:
            raise Refusal(401, "Invalid username or password.")
        return Reply(200, store.accounts.who(request.token))
    if (method, path) == ("POST", "validate-yaml"):
        body = request.json()
        errors, warnings = check_card(body.get("content", ""), body.get("repoType", "model"))
        answer = {
            "errors": [{"message": text} for text in errors],
            "warnings": [{"message": text} for text in warnings],
        }
        return Reply(400 if errors else 200, answer)
    changes = {"POST create": writing.create, "DELETE delete": writing.delete, "POST move": writing.move}
    if segments[0] == "repos" and len(segments) == 2 and f"{method} {segments[1]}" in changes:
        return changes[f"{method} {segments[1]}"](store, request)
    if segments[0] in PLURALS and len(segments) == 1 and method == "GET":
        return Reply(200, listing(store, request, PLURALS[segments[0]]))
    if segments[0] in PLURALS and len(segments) > 1:
        id, rest = split(segments[1:])
        repository = store.visible(PLURALS[segments[0]], id, request.token)
        return of_repository(store, request, repository, rest, page)
    raise unknown(request)


def split(segments: list[str]) -> tuple[str, list[str]]:
    """Name of a repository, with or without a namespace, and what comes after it."""
    length = 1 if len(segments) == 1 or segments[1] in PARTS else 2
    return "/".join(segments[:length]), segments[length:]


def listing(store: Store, request: Request, kind: str) -> list[dict]:
    author, search = request.query.get("author"), request.query.get("search", "")
    shown = []
    for repository in list(store.repositories.values()):
        owned = request.token and store.accounts.owns(request.token.user, repository.namespace)
        if repository.kind != kind or (repository.private and not owned):
            continue
        if author in (None, repository.namespace) and search in repository.id:
            shown.append(reading.info(store, repository))
    return shown


def of_repository(store: Store, request: Request, repository: Repository, rest: list[str], page: int) -> Reply:
    method, part, after = request.method, rest[0] if rest else "", rest[1:]
    if method == "GET":
        return shown(store, request, repository, part, after, page)
    if method == "POST" and part == "paths-info" and after:
        return reading.paths_info(request, repository, after[0])
    if method == "POST" and part == "discussions" and not after:
        return writing.create_discussion(store, request, repository)
    if method == "POST" and part == "discussions" and after[1:] == ["merge"]:
        return writing.merge(store, request, repository, after[0])
    if method == "PUT" and part == "settings":
        return writing.change_settings(store, request, repository)
    if method == "POST" and part in ("secrets", "variables"):
        return writing.set_variable(store, request, repository, part)
    named = {
        "POST preupload": uploads.preupload,
        "POST commit": writing.commit,
        "POST branch": writing.create_branch,
        "DELETE branch": writing.delete_branch,
        "POST tag": writing.create_tag,
        "DELETE tag": writing.delete_tag,
    }.get(f"{method} {part}")
    if named and after:
        return named(store, request, repository, "/".join(after))
    raise unknown(request)


def shown(store: Store, request: Request, repository: Repository, part: str, after: list[str], page: int) -> Reply:
    blobs = request.query.get("blobs", "").lower() == "true"
    if part in ("", "revision"):
        return Reply(200, reading.info(store, repository, after[0] if after else "main", blobs=blobs))
    if part == "tree" and after:
        return reading.tree(request, repository, after[0], "/".join(after[1:]), page)
    if part == "refs":
        return Reply(200, reading.refs(repository, pulls="include_prs" in request.query))
    if part == "commits" and after:
        return Reply(200, reading.commits(repository, after[0]))
    if part == "runtime" and repository.kind == "space":
        return Reply(200, reading.runtime(store, repository))
    if part == "auth-check":
        return Reply(200, {})
    if part == "discussions" and after:
        return Reply(200, writing.discussion_of(repository, after[0]))
    if part == "discussions":
        found = repository.discussions[::-1]
        return Reply(200, {"discussions": found, "count": len(found), "start": 0})
    raise unknown(request)


def of_lfs(store: Store, request: Request) -> Reply:
    _, plural, namespace, name, oid, *rest = [*request.segments, "", "", "", ""]
    repository = existing(store, plural, f"{namespace}/{name}")
    if request.method == "PUT" and not any(rest):
        return uploads.receive(store, request, repository, oid)
    if request.method == "POST" and rest[0] == "verify":
        return uploads.verify(store, request, repository, oid)
    raise unknown(request)


def of_web(store: Store, request: Request) -> Reply:
    """Files, LFS batches and pages for a browser, below a repository's own address."""
    segments = list(request.segments)
    kind = PLURALS.get(segments[0], "model")
    if segments[0] in PLURALS:
        del segments[0]
    if segments in ([], [""]) and request.method in ("GET", "HEAD"):
        return pages.front(store, request)
    id = "/".join(segments[:2])
    if segments[2:] == ["info", "lfs", "objects", "batch"] and request.method == "POST":
        return uploads.batch(store, request, store.visible(kind, id.removesuffix(".git"), request.token))
    if request.method not in ("GET", "HEAD"):
        raise unknown(request)
    if len(segments) >= 3 and segments[1] == "resolve":  # a name without a namespace
        id, segments = segments[0], ["", *segments]
    repository = store.visible(kind, id, request.token)
    if len(segments) == 2:
        return pages.repository_page(store, request, repository)
    if segments[2] == "resolve" and len(segments) > 4:
        return reading.resolve(store, request, repository, segments[3], "/".join(segments[4:]))
    raise no_entry("Entry not found", repository.head("main").oid)
