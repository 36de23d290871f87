"""The code that runs in the process of a training.

Only this package and the module ``lrbench_caffe.layers`` import Caffe.

A program's ``fork_server`` has imported all of this and forks a process for each training. That
process runs ``worker``, which turns a job into a trial:

* ``pycaffe`` checks that this Caffe can be used;
* ``session`` runs the training from its job to its end;
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
* ``solver`` is the training loop, ``monitor`` the LR schedule monitor that it steps with,
  ``evaluation`` runs the test nets, ``patience`` ends a training that has stopped improving, and
  ``log_lines`` has the values of Caffe's log;
* ``snapshots`` and ``solverstate`` let a training resume where it was interrupted;
* ``model`` keeps the model of the best row; ``caffemodel`` writes its weights, and ``deploy`` makes
  the net that classifies with them;
* ``records`` reads and writes LMDBs and mean files.
"""
