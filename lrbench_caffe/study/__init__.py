"""Studies: many trials under a name, each in a process of its own, on this machine or on a Dask cluster."""

from lrbench_caffe.study.runner import UNFINISHED, checked_study_name, run_jobs, run_study

__all__ = ["UNFINISHED", "checked_study_name", "run_jobs", "run_study"]
