"""Two pages for a reader with a browser: what there is, and one repository with its card and files."""

import html
from urllib.parse import quote

from .exchange import Reply, Request
from .repository import Repository
from .store import Store
from .uploads import text_of

STYLE = (
    "body{font:15px/1.5 sans-serif;max-width:60em;margin:2em auto}pre{background:#f6f6f6;padding:1em;overflow:auto}"
)


def page(title: str, body: str) -> Reply:
    text = f"<!doctype html><meta charset=utf-8><title>{title}</title><style>{STYLE}</style><h1>{title}</h1>{body}"
    return Reply(200, text.encode(), {"Content-Type": "text/html; charset=utf-8"})


def front(store: Store, request: Request) -> Reply:
    """Public repositories; private ones are named, as this server belongs to one reader."""
    lines = [
        f'<li>{repository.kind} <a href="/{repository.web_path}">{html.escape(repository.id)}</a>'
        f"{' (private)' if repository.private else ''}"
        for repository in store.repositories.values()
    ]
    return page("Test Hub", f"<ul>{''.join(lines)}</ul>")


def repository_page(store: Store, request: Request, repository: Repository) -> Reply:
    commit = repository.head("main")
    lines = [
        f'<li><a href="/{repository.web_path}/resolve/main/{quote(path)}">{html.escape(path)}</a> {file.size} bytes'
        for path, file in sorted(commit.files.items())
    ]
    card = html.escape(text_of(store, repository, commit, "README.md"))
    log = [f"<li>{made.date} {html.escape(made.title)} ({made.author})" for made in repository.history(commit)]
    body = f"<ul>{''.join(lines)}</ul><h2>README.md</h2><pre>{card}</pre><h2>Commits</h2><ul>{''.join(log)}</ul>"
    return page(html.escape(repository.id), body)
