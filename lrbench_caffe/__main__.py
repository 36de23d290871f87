"""``python -m lrbench_caffe`` is the command ``lrbench``."""
from lrbench_caffe.cli import main

main(prog_name="lrbench")
