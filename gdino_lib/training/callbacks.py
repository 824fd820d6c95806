"""What a run can call after each epoch."""

from __future__ import annotations

from typing import Protocol

from gdino_lib.detect.detector import Detector


class Callback(Protocol):
    """Something to do after each epoch: measure, draw, report. It is called on the main process only."""

    def on_epoch_end(self, epoch: int, detector: Detector) -> None:
        """Use the model as it is after an epoch, after its validation and before its checkpoint.

        A resumed run may call this again for the epoch that it resumes after; write results so that the second call replaces
        those of the first.

        Args:
            epoch: number of finished epochs, from 1.
            detector: of the model with its present weights; with a moving average, of the averaged weights. It must not be
                changed or kept, because the weights change in the next step.
        """
        ...
