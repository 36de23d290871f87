"""Install lrbench_caffe where Python can import Caffe.

Without Caffe, the policies and the metrics work as well.
"""

import os
import re

from setuptools import find_packages, setup

ROOT = os.path.dirname(os.path.abspath(__file__))

# Users find solvers and nets at the top level. An installed package has them where paths.shipped
# looks for them.
SHIPPED = {"lrbench_caffe.shipped.solvers": "solvers", "lrbench_caffe.shipped.prototxt": "prototxt"}


def read(*path):
    """Return the text of a file of the project."""
    with open(os.path.join(ROOT, *path), encoding="utf-8") as file:
        return file.read()


setup(
    name="lrbench-caffe",
    version=re.search('__version__ = "(.*)"', read("lrbench_caffe", "__init__.py")).group(1),
    description="Find good learning rate policies, and train Caffe solver prototxts under them",
    long_description=read("README.md"),
    long_description_content_type="text/markdown",
    license="BSD-2-Clause",
    python_requires=">=3.7",
    packages=find_packages(include=["lrbench_caffe", "lrbench_caffe.*"]) + sorted(SHIPPED),
    package_dir=SHIPPED,
    package_data=dict(
        {
            "lrbench_caffe": [
                "database/*.sql",
                "database/migrations/*.sql",
                "paper/*.csv",
                "report/page.*",
                "report/*.js",
            ]
        },
        **{package: ["*.prototxt"] for package in SHIPPED},
    ),
    install_requires=[
        "click>=8",
        "cloup>=3",
        "dask>=2022.2",
        "distributed>=2022.2",
        "h5py",
        "lmdb",
        "matplotlib",
        "numpy",
        "pillow",
        "plotext>=5.2",
        "protobuf",
        "psycopg2-binary",
        "rich>=12",
        "scikit-learn",
        "scipy",
        "threadpoolctl>=3.1",
    ],
    extras_require={"notebook": ["pandas"], "test": ["hypothesis", "pytest", "selenium"]},
    entry_points={"console_scripts": ["lrbench = lrbench_caffe.__main__:main"]},
    classifiers=["License :: OSI Approved :: BSD License", "Programming Language :: Python :: 3"],
)
