"""The code that runs in the process of a training.

Only this package and the module ``lrbench_caffe.layers`` import Caffe.

A training starts in ``worker``, which turns a job into a trial:

* ``pycaffe`` checks that this Caffe can be used;
* ``job`` resolves the solver and the policy and describes the trial, with the help of ``reader``
  (reads prototxts as Caffe does; ``encoding`` holds their texts), ``prototxt`` (resolves the solver
  and its nets), ``settings`` (checks the solver), ``sets`` (names the sets of the test nets;
  ``validation_net`` adds one), ``head`` and ``blobs`` (find where a net
  classifies), ``measurement`` (chooses what is measured; ``instruments`` adds the layers for it,
  and ``metrics_layer`` reads those of a prototxt), ``canonical`` (identifies networks and solver
  settings), ``sources`` and ``lists`` (check the data that the nets read) and ``device`` (chooses
  the CPU or a GPU);
* ``lr_policy`` translates between policies and the solver's ``lr_policy``;
* ``leveldb`` lets trainings that read the same LevelDB wait for each other;
* ``solver`` is the training loop, ``monitor`` the LR schedule monitor that it steps with, and
  ``evaluation`` runs the test nets;
* ``snapshots`` and ``solverstate`` let a training resume where it was interrupted;
* ``records`` reads and writes LMDBs and mean files.
"""
