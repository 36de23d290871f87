"""Data layers that read a list of files: the files are looked up as all paths of a prototxt are.

Caffe looks for a relative name in a list in the current directory only.
"""

from __future__ import annotations

import io
import os
import re
from typing import TYPE_CHECKING, Any

from lrbench_caffe.errors import InputError
from lrbench_caffe.training import encoding
from lrbench_caffe.training.files import find_file, mirrored_path, plain_path, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from caffe.proto import caffe_pb2


def locate_listed_files(layer: caffe_pb2.LayerParameter, folders: Sequence[str | None]) -> None:
    """Change a data layer so that Caffe finds the files in its list from any directory.

    Args:
        layer: A layer of any type, whose source is an absolute path.
        folders: Where to look, in this order; None is skipped.

    Raises:
        InputError: The list cannot be read, or a file is missing.
    """
    name = encoding.readable(layer.name)
    if layer.type == "HDF5Data":
        _locate_hdf5(layer.hdf5_data_param, folders, name)
    elif layer.type == "ImageData":
        _locate_images(layer.image_data_param, folders, name)


def _locate_hdf5(param: Any, folders: Sequence[str | None], layer: str) -> None:
    """Give an HDF5Data layer a temporary list with absolute paths if it has relative ones."""
    names = [os.fsdecode(name) for name in _content(param.source, layer).split()]
    if not names:
        raise InputError("layer %r reads %s, which lists no HDF5 files" % (layer, param.source))
    description = "an HDF5 file in %s, the list of layer %r" % (param.source, layer)
    paths = [find_file(name, folders, description) for name in names]
    if all(os.path.abspath(name) == path for name, path in zip(names, paths)):
        return
    param.source = mirrored_path(param.source)
    with open(param.source, "wb") as file:
        for n, path in enumerate(paths):
            if re.search(r"\s", path):  # white space separates two names in a list
                link = mirrored_path("/%d.h5" % n)
                os.symlink(path, link)
                path = link
            file.write(os.fsencode(path) + b"\n")


def _locate_images(param: Any, folders: Sequence[str | None], layer: str) -> None:
    """Make the root_folder of an ImageData layer absolute: its first image is found there."""
    content = io.BytesIO(_content(param.source, layer))
    line = content.readline().rstrip(b"\r\n")
    if not line:
        raise InputError("layer %r reads %s, which lists no images" % (layer, param.source))
    name = os.fsdecode(line.rpartition(b" ")[0] or line)
    root = encoding.to_path(param.root_folder)
    is_absolute = name.startswith("/") or any(line.startswith(b"/") for line in content)
    if os.path.isabs(root) or (not root and is_absolute):
        prefixes = [root]
    else:
        prefixes = [os.path.join(folder, root) for folder in folders if folder is not None]
    # Caffe puts the names directly behind the root_folder. Most users expect a slash between.
    tried = [prefix + slash for prefix in prefixes for slash in ("", "/")[: 1 + bool(root)]]
    for prefix in tried:
        if os.path.exists(prefix + name):
            param.root_folder = _absolute(prefix)
            return
    paths = dict.fromkeys(shown(os.path.abspath(prefix + name)) for prefix in tried)
    raise InputError(
        "%s, the first image in %s, the list of layer %r, was not found; tried %s: name the folder "
        "it is in with root_folder or --data" % (shown(name), param.source, layer, ", ".join(paths))
    )


def _absolute(prefix: str) -> str:
    """An absolute path to put before names: of a folder with a slash, or of the start of a name."""
    if not prefix:
        return prefix
    folder, start = os.path.split(prefix)
    return os.path.join(plain_path(os.path.abspath(folder)), encoding.from_path(start))


def _content(path: str, layer: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise InputError(
            "layer %r cannot read its list of files %s: %s" % (layer, path, error.strerror)
        ) from None
