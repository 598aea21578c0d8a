"""What changes repositories: making and deleting them, commits, branches, tags, pull requests and settings."""

from .commits import apply, check_parent, read_lines
from .exchange import Reply, Request
from .refusals import Refusal, no_repository, no_revision
from .repository import Repository, now
from .store import KINDS, NAME, Store


def named(store: Store, request: Request, body: dict) -> tuple[str, str, str]:
    """
    Returns:
        Kind, namespace/name and user of a request that creates or deletes.

    Raises:
        Refusal: 400 for an impossible name, 403 for the namespace of others.
    """
    token = store.accounts.writer(request.token)
    kind, name = body.get("type") or "model", body.get("name", "")
    namespace = body.get("organization") or token.user
    if kind not in KINDS:
        raise Refusal(400, f'"type" must be one of [{", ".join(KINDS)}]')
    if not NAME.fullmatch(name) or name.endswith((".git", ".ipynb")):
        raise Refusal(400, f'"name" with value "{name}" is not a repository name')
    if not store.accounts.owns(token.user, namespace):
        raise Refusal(
            403, f'You don\'t have the rights to create a {kind} under the namespace "{namespace}"', body={"url": None}
        )
    return kind, f"{namespace}/{name}", token.user


def create(store: Store, request: Request) -> Reply:
    body = request.json()
    kind, id, user = named(store, request, body)
    url = f"{request.origin}/{id if kind == 'model' else f'{kind}s/{id}'}"
    if (kind, id) in store.repositories:
        message = f"You already created this {kind} repo"
        raise Refusal(409, message, body={"url": url, "name": id, "id": id})
    visibility = body.get("visibility") or ("private" if body.get("private") else "public")
    if visibility not in ("public", "private"):
        raise Refusal(400, '"visibility" must be one of [public, private]')
    if kind == "space" and body.get("sdk") not in ("gradio", "docker", "static"):
        raise Refusal(400, '"sdk" must be one of [gradio, docker, static]')
    settings = {key: body[key] for key in ("sdk", "hardware", "secrets", "variables") if key in body}
    store.create(kind, id, user, private=visibility == "private", settings=settings)
    return Reply(200, {"url": url, "name": id, "id": id})


def delete(store: Store, request: Request) -> Reply:
    kind, id, _ = named(store, request, request.json())
    if (kind, id) not in store.repositories:
        raise no_repository(anonymous=False)
    store.delete(store.repositories[kind, id])
    return Reply(200, b"OK")


def move(store: Store, request: Request) -> Reply:
    body = request.json()
    repository = store.visible(body.get("type") or "model", body.get("fromRepo", ""), request.token)
    store.writable(repository, request.token)
    namespace, _, name = body.get("toRepo", "").partition("/")
    _, id, _ = named(store, request, {"type": repository.kind, "name": name, "organization": namespace})
    if (repository.kind, id) in store.repositories:
        raise Refusal(409, "A repository of this name exists")
    store.move(repository, id)
    return Reply(200, b"OK")


def change_settings(store: Store, request: Request, repository: Repository) -> Reply:
    store.writable(repository, request.token)
    body = request.json()
    visibility = body.get("visibility") or {True: "private", False: "public"}.get(body.get("private"))
    if visibility not in ("public", "private", None):
        raise Refusal(400, '"visibility" must be one of [public, private]')
    if visibility:
        repository.private = visibility == "private"
    store.save(repository)
    return Reply(200, {"private": repository.private})


def set_variable(store: Store, request: Request, repository: Repository, what: str) -> Reply:
    """A secret or variable of a Space."""
    store.writable(repository, request.token)
    body = request.json()
    repository.settings.setdefault(what, []).append({"key": body["key"], "value": body.get("value", "")})
    store.save(repository)
    return Reply(200, {})


def commit(store: Store, request: Request, repository: Repository, revision: str) -> Reply:
    """One commit, onto a branch or as a pull request; where any of it is refused, nothing has changed."""
    for_pull = request.query.get("create_pr") in ("1", "true")
    token = store.writable(repository, request.token, for_pull=for_pull or revision.startswith("refs/pr/"))
    head = repository.head(revision)
    header, operations = read_lines(request.loaded)
    check_parent(header, head)
    files = apply(store, repository, head, operations)
    about = {"title": header["summary"], "message": header.get("description") or "", "author": token.user}
    answer = {"success": True}
    ref = revision
    if for_pull:
        pull = open_discussion(repository, about["title"], token.user, base=revision)
        ref = pull["gitReference"]
        answer["pullRequestUrl"] = f"{request.origin}/{repository.web_path}/discussions/{pull['num']}"
    made = store.commit(repository, ref, head, files, **about)
    answer |= {"commitOid": made.oid, "commitUrl": f"{request.origin}/{repository.web_path}/commit/{made.oid}"}
    return Reply(200, answer)


def create_branch(store: Store, request: Request, repository: Repository, name: str) -> Reply:
    store.writable(repository, request.token)
    body = request.json()
    if name in repository.branches:
        raise Refusal(409, f"Reference already exists: refs/heads/{name}")
    if body.get("emptyBranch"):
        raise Refusal(501, "Empty branches are not known here")
    repository.branches[name] = repository.at(body.get("startingPoint") or "main").oid
    store.save(repository)
    return Reply(200, {})


def delete_branch(store: Store, request: Request, repository: Repository, name: str) -> Reply:
    store.writable(repository, request.token)
    if name == "main":
        raise Refusal(403, "Cannot delete the main branch")
    if repository.branches.pop(name, None) is None:
        raise no_revision(name)
    store.save(repository)
    return Reply(200, {})


def create_tag(store: Store, request: Request, repository: Repository, revision: str) -> Reply:
    store.writable(repository, request.token)
    tag = request.json().get("tag", "")
    if tag in repository.tags:
        raise Refusal(409, f"Reference already exists: refs/tags/{tag}")
    repository.tags[tag] = repository.at(revision).oid
    store.save(repository)
    return Reply(200, {})


def delete_tag(store: Store, request: Request, repository: Repository, tag: str) -> Reply:
    store.writable(repository, request.token)
    if repository.tags.pop(tag, None) is None:
        raise no_revision(tag)
    store.save(repository)
    return Reply(200, {})


def open_discussion(repository: Repository, title: str, user: str, base: str | None) -> dict:
    """
    Args:
        base: branch of a pull request; None for a mere discussion.
    """
    number = len(repository.discussions) + 1
    discussion = {
        "num": number,
        "title": title,
        "author": {"name": user},
        "createdAt": now(),
        "status": "open",
        "isPullRequest": base is not None,
        "repo": {"name": repository.id, "type": repository.kind},
        "events": [],
    }
    if base is not None:
        ref = f"refs/pr/{number}"
        repository.pulls[ref] = repository.head(base).oid
        discussion |= {"changes": {"base": f"refs/heads/{base}"}, "filesWithConflicts": [], "gitReference": ref}
    repository.discussions.append(discussion)
    return discussion


def create_discussion(store: Store, request: Request, repository: Repository) -> Reply:
    token = store.writable(repository, request.token, for_pull=True)
    body = request.json()
    base = "main" if body.get("pullRequest") else None
    discussion = open_discussion(repository, body.get("title", ""), token.user, base)
    store.save(repository)
    return Reply(200, discussion)


def discussion_of(repository: Repository, number: str) -> dict:
    if not number.isdigit() or not 0 < int(number) <= len(repository.discussions):
        raise Refusal(404, "Discussion not found")
    return repository.discussions[int(number) - 1]


def merge(store: Store, request: Request, repository: Repository, number: str) -> Reply:
    """Puts the files of a pull request onto its base, where the base has not moved since."""
    token = store.writable(repository, request.token)
    discussion = discussion_of(repository, number)
    if not discussion["isPullRequest"] or discussion["status"] == "merged":
        raise Refusal(400, "Nothing to merge")
    base = discussion["changes"]["base"].removeprefix("refs/heads/")
    head, pull = repository.head(base), repository.head(discussion["gitReference"])
    if head not in repository.history(pull):
        raise Refusal(409, "The base has changed since")
    about = {"title": f"{discussion['title']} (#{number})", "message": "", "author": token.user}
    made = store.commit(repository, base, head, pull.files, **about)
    discussion["status"] = "merged"
    discussion["changes"]["mergeCommitId"] = made.oid
    event = {"id": number, "type": "status-change", "createdAt": now(), "author": {"name": token.user}}
    discussion["events"].append(event | {"data": {"status": "merged"}})
    store.save(repository)
    return Reply(200, {"newStatus": "merged"})
