"""Small checks of metadata that collect what is wrong instead of raising."""

import re
from collections.abc import Iterator

WORDS = {str: "a string", bool: "a boolean", int: "a number", list: "an array"}


class Checks:
    """
    Args:
        metadata: what is checked.

    Attributes:
        errors, warnings: what was found, in words.
    """

    def __init__(self, metadata: dict):
        self.metadata = metadata
        self.errors: list[str] = []
        self.warnings: list[str] = []

    def error(self, message: str) -> None:
        if message not in self.errors:
            self.errors.append(message)

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def each(self, field: str) -> Iterator[tuple[str, str]]:
        """Path and value of a string, or of each in an array of strings; anything else is an error."""
        value = self.metadata.get(field)
        if value is None:
            return
        if isinstance(value, list):
            for number, item in enumerate(value):
                if isinstance(item, str) and item:
                    yield f"{field}[{number}]", item
                else:
                    self.error(f'"{field}[{number}]" must be a string')
        elif isinstance(value, str) and value:
            yield field, value
        else:
            self.error(f'"{field}" must be a string')

    def strings(self, field: str, *, list_only: bool = False) -> None:
        if list_only and isinstance(self.metadata.get(field), str):
            self.error(f'"{field}" must be an array')
        list(self.each(field))

    def text(self, field: str, pattern: re.Pattern | None = None) -> None:
        value = self.metadata.get(field)
        if value is None:
            return
        if not isinstance(value, str):
            self.error(f'"{field}" must be a string')
        elif pattern and not pattern.fullmatch(value):
            self.error(f'"{field}" with value "{value}" fails to match the required pattern: /^{pattern.pattern}$/')

    def one_of(self, field: str, values: list[str]) -> None:
        value = self.metadata.get(field)
        if value is not None and value not in values:
            self.error(f'"{field}" must be one of [{", ".join(values)}]')

    def array(self, field: str) -> Iterator[tuple[str, dict]]:
        """Path and value of each object in an array at the top."""
        yield from self.objects(self.metadata, "", field, needed=False)

    def objects(self, parent: dict, at: str, field: str, *, needed: bool = True) -> Iterator[tuple[str, dict]]:
        """Path and value of each object in an array."""
        path = f"{at}.{field}" if at else field
        if field not in parent:
            if needed:
                self.error(f'"{path}" is required')
            return
        if not isinstance(parent[field], list):
            self.error(f'"{path}" must be an array')
            return
        for number, item in enumerate(parent[field]):
            if isinstance(item, dict):
                yield f"{path}[{number}]", item
            else:
                self.error(f'"{path}[{number}]" must be of type object')

    def object(self, parent: dict, at: str, field: str) -> dict:
        """A required object; an empty one in its place, where it is wrong."""
        if field not in parent:
            self.error(f'"{at}.{field}" is required')
        elif not isinstance(parent[field], dict):
            self.error(f'"{at}.{field}" must be of type object')
        else:
            return parent[field]
        return {}

    def required(self, parent: dict, at: str, field: str, kind: type | tuple) -> None:
        path = f"{at}.{field}" if at else field
        if parent.get(field) is None:
            self.error(f'"{path}" is required')
        else:
            self.optional(parent, at, kind, field)

    def optional(self, parent: dict, at: str, kind: type | tuple, *fields: str) -> None:
        """What is there must be of its kind; null is of none."""
        for field in fields:
            path = f"{at}.{field}" if at else field
            if field in parent and not isinstance(parent[field], kind):
                self.error(f'"{path}" must be {WORDS.get(kind, "of another type")}')
            elif kind is str and parent.get(field) == "":
                self.error(f'"{path}" is not allowed to be empty')
