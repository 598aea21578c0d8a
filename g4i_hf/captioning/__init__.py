"""
Captions of images, new or existing, as a stage of Parquet.

- `questions`: from the rows of a split to questions with prompts and keys
- `answers`: questions, answers and the interface of captioners; `local` and `endpoint` implement it
- `servers`: requests to servers, and their replies
- `runner`, `store`: request missing answers, within limits, and store every answer
- `cleaning`, `existing`, `stage`: from answers, or captions that exist, to columns, their folder and its report
"""
