"""What tests do behind the back of the clients: /_admin, /_faults and /_log."""

from .accounts import Token
from .exchange import Reply, Request
from .refusals import Refusal
from .repository import Repository
from .store import Store


def repository_of(store: Store, arguments: dict) -> Repository:
    repository = store.repositories.get((arguments.get("type", "model"), arguments.get("repo", "")))
    if repository is None:
        raise Refusal(404, f"There is no {arguments.get('type', 'model')} {arguments.get('repo')!r}")
    return repository


def act(store: Store, action: str, arguments: dict) -> dict:
    """
    Args:
        action: make_private, make_public or delete (repo, type); expire_token (token); add_token (token, user, role);
            add_organization (name, members); commit (repo, type, files: text by path), as if by somebody else.

    Returns:
        State of what was changed.
    """
    if action in ("make_private", "make_public"):
        repository = repository_of(store, arguments)
        repository.private = action == "make_private"
        store.save(repository)
        return {"private": repository.private}
    if action == "delete":
        store.delete(repository_of(store, arguments))
        return {"deleted": arguments["repo"]}
    if action == "expire_token":
        store.accounts.tokens[arguments["token"]].expired = True
        return {"expired": True}
    if action == "add_token":
        store.accounts.tokens[arguments["token"]] = Token(arguments["user"], arguments.get("role", "write"))
        return {"user": arguments["user"]}
    if action == "add_organization":
        store.accounts.organizations[arguments["name"]] = set(arguments["members"])
        return {"name": arguments["name"]}
    if action == "commit":
        repository = repository_of(store, arguments)
        head = repository.head(arguments.get("branch", "main"))
        changed = {path: store.put(repository, text.encode()) for path, text in arguments["files"].items()}
        about = {"title": "A commit of somebody else", "message": "", "author": "other"}
        made = store.commit(repository, arguments.get("branch", "main"), head, head.files | changed, **about)
        return {"oid": made.oid}
    raise Refusal(404, f"Unknown action {action!r}")


def state(store: Store) -> dict:
    """All repositories by "<kind>s/<id>": private, and of each branch the last commit and the files with sizes."""
    return {
        f"{repository.kind}s/{repository.id}": {
            "private": repository.private,
            "commits": len(repository.commits),
            "tags": repository.tags,
            "branches": {
                name: {
                    "sha": oid,
                    "title": repository.commits[oid].title,
                    "files": {path: file.size for path, file in sorted(repository.commits[oid].files.items())},
                }
                for name, oid in repository.branches.items()
            },
        }
        for repository in store.repositories.values()
    }


def answer(hub, request: Request) -> Reply:
    """Requests below /_admin, /_faults and /_log."""
    area, *rest = request.segments
    if area == "_log" and request.method == "GET":
        return Reply(200, list(hub.log))
    if area == "_log" and request.method == "DELETE":
        hub.log.clear()
        return Reply(200, {})
    if area == "_faults" and request.method == "POST":
        return Reply(200, {"match": hub.faults.add(request.json()).match})
    if area == "_faults" and request.method == "GET":
        return Reply(200, [vars(fault) for fault in hub.faults.active])
    if area == "_faults" and request.method == "DELETE":
        hub.faults.active.clear()
        return Reply(200, {})
    if area == "_admin" and rest == ["state"]:
        return Reply(200, state(hub.store))
    if area == "_admin" and request.method == "POST" and len(rest) == 1:
        return Reply(200, act(hub.store, rest[0], request.json()))
    raise Refusal(404, f"Nothing at {request.path}")
