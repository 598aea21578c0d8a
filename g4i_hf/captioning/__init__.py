"""Images -> captions: by a local vision-language model, an OpenAI-compatible endpoint, or from what exists already."""
