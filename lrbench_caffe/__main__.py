"""``python -m lrbench_caffe`` is the command ``lrbench``."""
from lrbench_caffe.cli import main

if __name__ == "__main__":  # the processes of a local Dask cluster import it under another name
    main(prog_name="lrbench")
