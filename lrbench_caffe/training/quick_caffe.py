"""Imports Caffe without scikit-image, which its processes need only if they read image files.

``caffe.io`` imports scikit-image for its functions on image files. With SciPy and Matplotlib, which
follow, that takes longer than all of the rest. Each training is a process of its own, so here
scikit-image is imported when one of those functions is called. Any other module, such as a Python
layer of the user, imports scikit-image as usual.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

_NAMES = ("skimage", "skimage.io", "skimage.transform")


class _Deferred(ModuleType):
    """Stands for a module, which is imported when one of its attributes is used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        for module in _NAMES:
            importlib.import_module(module)
        return getattr(sys.modules[self.__name__], name)


def _resize(*arguments: Any, **options: Any) -> Any:
    """Call skimage.transform.resize, which caffe.io imports by its name."""
    from skimage.transform import resize

    return resize(*arguments, **options)


def _import_caffe() -> ModuleType:
    deferred = {name: _Deferred(name) for name in _NAMES if name not in sys.modules}
    for name, module in deferred.items():
        if name == "skimage.transform":
            module.resize = _resize  # type: ignore[attr-defined]
        sys.modules[name] = module
    try:
        return importlib.import_module("caffe")
    finally:
        for name in deferred:
            del sys.modules[name]


caffe = _import_caffe()
