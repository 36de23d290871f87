"""Studies: named lists of trials, trained on this machine or on a Dask cluster.

Each trial is trained in a process of its own, because Caffe ends its process when a check fails.
"""

from lrbench_caffe.study.runner import UNFINISHED, checked_study_name, run_jobs, run_study

__all__ = ["UNFINISHED", "checked_study_name", "run_jobs", "run_study"]
