"""The layer of a gate, see gate.py; Caffe runs it in the process of a training."""

import contextlib
import json
import os
import signal
import time

import caffe

from lrbench_caffe.training.snapshots import FIRST_COST, MAX_SHARE

POLL_SECONDS = 0.02
SNAPSHOT_SECONDS = FIRST_COST / MAX_SHARE  # after which a training takes its first snapshot


class GateLayer(caffe.Layer):
    """Holds a training until its gate is open or, unless it is stubborn, SIGINT interrupts it."""

    def setup(self, bottom, top):
        self._settings = json.loads(self.param_str)
        self._started, self._iterations = time.monotonic(), 0

    def reshape(self, bottom, top):
        pass

    def forward(self, bottom, top):
        if self._iterations == 1 and self._settings["snapshot"] and not self._is_open():
            time.sleep(max(0, self._started + SNAPSHOT_SECONDS - time.monotonic()))
        if self._iterations == self._settings["iteration"]:
            self._hold()
        self._iterations += 1

    def backward(self, top, propagate_down, bottom):
        pass

    def _hold(self):
        handler, interruptions = signal.getsignal(signal.SIGINT), []
        mark = self._path(str(os.getpid()))

        def interrupt(*arguments):
            handler(*arguments)
            open(self._path("interrupted"), "w").close()
            if not self._settings["stubborn"]:
                interruptions.append(arguments)

        signal.signal(signal.SIGINT, interrupt)
        open(mark, "w").close()
        while os.path.exists(mark) and not self._is_open() and not interruptions:
            time.sleep(POLL_SECONDS)
        with contextlib.suppress(FileNotFoundError):
            os.remove(mark)
        signal.signal(signal.SIGINT, handler)

    def _is_open(self):
        return os.path.exists(self._path("open"))

    def _path(self, name):
        return os.path.join(self._settings["folder"], name)
