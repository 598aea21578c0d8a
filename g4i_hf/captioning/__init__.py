"""
Captions of images, new or existing, as a stage of Parquet.

- `prompts`, `questions`: from the rows of a split to questions with keys
- `answers`: questions, answers and the interface of captioners; `local`, `endpoint` and `batch_api` implement it
- `servers`, `replies`, `images`: what the latter two send and receive
- `runner`, `store`: ask what has no stored answer, and store every answer
- `existing`, `list_order`: captions of a column, a file or a list
- `stage`, `cleaning`, `quality`, `label_names`: from answers to columns and weights
- `dry_run`, `projection`, `report`: pages, costs and limits
- `scale`: many machines
"""
