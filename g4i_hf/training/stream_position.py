"""Where a run that goes on takes up its stream again."""

import math

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import has_length

from ..data.stream_batches import StreamBatches


class StreamPosition(TrainerCallback, ExportableState):
    """
    Tells the batches of a resumed run how many of them were trained on, so that they need not be read again as far as
    the sizes of shards are known; Trainer skips as many. Of a stream of unknown length it keeps in
    `trainer_state.json` where each epoch began.
    """

    def __init__(self):
        self.batches: StreamBatches | None = None

    def state(self) -> dict:
        starts = [0] if self.batches is None else self.batches.epoch_starts
        return {"args": {}, "attributes": {"epoch_starts": list(starts)}}

    def on_train_begin(self, args, state, control, train_dataloader=None, **kwargs):
        self.batches = train_dataloader.batch_sampler
        if args.ignore_data_skip:
            return
        steps = state.global_step
        if has_length(self.batches):
            steps %= max(1, math.ceil(len(self.batches) / args.gradient_accumulation_steps))
        saved = state.stateful_callbacks.get(type(self).__name__, {}).get("attributes", {})
        self.batches.pass_over(steps * args.gradient_accumulation_steps, saved.get("epoch_starts"))
