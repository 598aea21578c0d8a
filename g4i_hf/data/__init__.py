"""Images, labels and captions: opening, checking, augmenting, batching."""
