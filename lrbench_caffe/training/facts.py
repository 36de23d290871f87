"""Prints which Caffe and which BLAS library a training of this Python has, as a JSON object.

``lrbench about`` runs this in a process of its own, because importing Caffe may end the process.
"""

from __future__ import annotations

import json
import os
import sys

import threadpoolctl

from lrbench_caffe.errors import InputError
from lrbench_caffe.training.pycaffe import check_pycaffe


def main() -> None:
    """Print the facts, or why this Python cannot use Caffe."""
    try:
        check_pycaffe()
    except InputError as error:
        json.dump({"Caffe": str(error)}, sys.stdout)
        return
    import caffe

    blas = [
        "%s %s with %d threads" % (library["internal_api"], library["version"], threads)
        for library in threadpoolctl.threadpool_info()
        for threads in [library["num_threads"]]
        if library["user_api"] == "blas"
    ]
    facts = {
        "Caffe": "%s in %s" % (caffe.__version__, os.path.dirname(caffe.__file__)),
        "BLAS": "; ".join(blas) or "unknown",
    }
    json.dump(facts, sys.stdout)


if __name__ == "__main__":
    main()
