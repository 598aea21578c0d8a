"""Images, labels and captions: opening, checking, augmenting, batching."""

from importlib import import_module

# Where each is. Read when it is asked for: stages that only open images need no torch, which takes seconds
_PLACES = {
    "CaptionedImages": "dataset",
    "class_names": "loading",
    "load_data": "loading",
    "load_images": "loading",
    "open_images": "loading",
    "train_transform": "transforms",
}
__all__ = list(_PLACES)


def __getattr__(name: str):
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_PLACES[name]}", __name__), name)
