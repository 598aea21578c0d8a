"""
Captions of images, new or existing, as a stage of Parquet.

- `questions`: from the rows of a split to questions with prompts and keys
- `answers`: questions, answers, their store and the interface of captioners; `local` and `endpoint` implement it
- `servers`: requests to servers, and their replies
- `runner`: requests missing answers, within limits, and stores every answer
- `cleaning`, `existing`, `stage`: from answers, or captions that exist, to columns, their folder and its report
"""
