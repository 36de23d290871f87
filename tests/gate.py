"""A gate in a net: it holds a training at an iteration until a test has done its part.

So a test of interruptions meets a training in the middle of its work, however fast or busy the
machine is. The layer itself, which runs in the process of the training, is in gate_layer.py.
"""

import json
import os

from waiting import wait_until


class Gate:
    """A closed gate, which any number of trainings may reach.

    Attributes:
        layer: The layer in prototxt, for the end of a net.
    """

    def __init__(self, folder, iteration, snapshot=False, stubborn=False):
        """Set up a gate.

        Args:
            folder: An empty folder.
            iteration: The iteration, counted from the start of the process, that a training does
                not begin while the gate is closed.
            snapshot: Whether a training waits before its second iteration until its first
                snapshot is due, which it then takes at its next evaluation.
            stubborn: Whether it also holds a training that is interrupted (SIGINT).
        """
        self._folder = str(folder)
        settings = {"folder": self._folder, "iteration": iteration}
        settings.update(snapshot=snapshot, stubborn=stubborn)
        self.layer = (
            'layer { name: "gate" type: "Python" bottom: "ip" include { phase: TRAIN } '
            "python_param { module: 'gate_layer' layer: 'GateLayer' param_str: '%s' } }\n"
            % json.dumps(settings)
        )

    def held(self):
        """The process ids of the trainings that the gate holds."""
        marked = [int(name) for name in os.listdir(self._folder) if name.isdigit()]
        return [pid for pid in marked if os.path.exists("/proc/%d" % pid)]

    def wait(self, count=1):
        """Wait until the gate holds a number of trainings; return their process ids."""
        return wait_until(lambda: len(self.held()) >= count and self.held())

    def was_interrupted(self):
        """Whether a training was interrupted while the gate held it."""
        return os.path.exists(os.path.join(self._folder, "interrupted"))

    def release(self, pid):
        """Let one of the trainings pass."""
        os.remove(os.path.join(self._folder, str(pid)))

    def open(self):
        """Let all trainings pass."""
        open(os.path.join(self._folder, "open"), "w").close()
