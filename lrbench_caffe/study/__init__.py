"""Studies: many trials under a name, each in a process of its own, on this machine or on a Dask cluster."""
from lrbench_caffe.study.runner import CUT_OFF, checked_name, go_on, run

__all__ = ["CUT_OFF", "checked_name", "go_on", "run"]
