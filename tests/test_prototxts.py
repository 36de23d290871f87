"""The shipped nets and solvers: the paper's settings, their sizes, and two iterations in Caffe."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from lrbench_caffe import datasets

pytest.importorskip(
    "caffe", reason="the nets and solvers need Caffe: run the tests with `make test`"
)

# The dataset of each net: its name, the shape of a sample, and the padding.
NETS = {
    "lenet": ("mnist", (1, 28, 28), 0),
    "cnn3": ("cifar10", (3, 32, 32), 0),
    "resnet32": ("cifar10", (3, 32, 32), 4),
    "digits": ("digits", (1, 8, 8), 0),
}
# The paper's Table II, the evaluation intervals of its tables, and the usual schedule of each net.
PAPER = {
    "lenet": dict(
        max_iter=10000,
        test_interval=500,
        type="SGD",
        momentum=0.9,
        weight_decay=0.0005,
        lr_policy="inv",
        base_lr=0.01,
        gamma=0.0001,
        power=0.75,
    ),
    "cnn3": dict(
        max_iter=70000,
        test_interval=250,
        type="SGD",
        momentum=0.9,
        weight_decay=0.004,
        lr_policy="multistep",
        base_lr=0.001,
        gamma=0.1,
        stepvalue=[60000, 65000],
    ),
    "resnet32": dict(
        max_iter=64000,
        test_interval=500,
        type="Nesterov",
        momentum=0.9,
        weight_decay=0.0001,
        lr_policy="multistep",
        base_lr=0.1,
        gamma=0.1,
        stepvalue=[32000, 48000],
    ),
}
BATCH = {"lenet": 100, "cnn3": 100, "resnet32": 128}
FILLER = {"lenet": {"xavier"}, "cnn3": {"gaussian"}, "resnet32": {"msra"}}
PARAMETERS = {"lenet": 431080, "cnn3": 89578, "resnet32": 464154}
TEST_SAMPLES = {"lenet": 10000, "cnn3": 10000, "resnet32": 10000, "digits": 400}

# Two iterations without evaluations, which would take minutes, then one batch of the test net.
# Prints the number of trained parameters, the train loss, the test loss and the accuracy.
TRAIN = """
import sys
import caffe
solver = caffe.get_solver(sys.argv[1])
solver.step(2)
test = solver.test_nets[0]
test.share_with(solver.net)
out = test.forward()
types = dict(zip(solver.net._layer_names, (layer.type for layer in solver.net.layers)))
trained = [blobs for name, blobs in solver.net.params.items() if types[name] != "BatchNorm"]
print(sum(blob.data.size for blobs in trained for blob in blobs),
      float(solver.net.blobs["loss"].data), float(out["loss"]), float(out["accuracy"]))
"""


def path(kind, name):
    return os.path.join(
        ROOT, {"solver": "solvers", "train_test": "prototxt"}[kind], "%s_%s.prototxt" % (name, kind)
    )


def solver(name):
    from caffe.proto import caffe_pb2
    from google.protobuf import text_format

    with open(path("solver", name)) as file:
        return text_format.Parse(file.read(), caffe_pb2.SolverParameter())


def net(name):
    from caffe.proto import caffe_pb2
    from google.protobuf import text_format

    with open(path("train_test", name)) as file:
        return text_format.Parse(file.read(), caffe_pb2.NetParameter())


def data_layer(name, phase):
    return next(
        layer
        for layer in net(name).layer
        if layer.type == "Data" and layer.include[0].phase == phase
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """trained(name): what TRAIN prints for a net on a few random images, in small batches."""
    data = tmp_path_factory.mktemp("nets")
    results = {}

    def train(name):
        if name not in results:
            dataset, shape, pad = NETS[name]
            random = np.random.RandomState(0)
            images, labels = random.randint(0, 256, (20,) + shape), random.randint(0, 10, 20)
            part = datasets.Part(images.astype(np.uint8), labels.astype(np.uint8))
            datasets.write_dataset(dataset, str(data), part, part, pad)
            param, small = solver(name), net(name)
            for layer in small.layer:
                if layer.type == "Data":
                    layer.data_param.batch_size = 10
            (data / "net.prototxt").write_text(str(small))
            param.test_initialization, param.random_seed = False, 1
            param.net = "net.prototxt"
            (data / "solver.prototxt").write_text(str(param))
            run = subprocess.run(
                [sys.executable, "-c", TRAIN, "solver.prototxt"],
                cwd=str(data),
                capture_output=True,
                text=True,
            )
            assert run.returncode == 0, run.stderr[-2000:]
            results[name] = [float(number) for number in run.stdout.split()]
        return results[name]

    return train


@pytest.mark.parametrize("name", sorted(PAPER))
def test_a_solver_has_the_papers_settings(name):
    param = solver(name)
    for setting, value in PAPER[name].items():
        actual = getattr(param, setting)
        if isinstance(value, list):
            assert list(actual) == value, setting
        elif isinstance(value, float):  # single precision in Caffe
            assert np.float32(actual) == np.float32(value), setting
        else:
            assert actual == value, setting


@pytest.mark.parametrize("name", sorted(PAPER))
def test_a_net_has_the_papers_batch_and_initialization(name):
    from caffe.proto import caffe_pb2

    assert data_layer(name, caffe_pb2.TRAIN).data_param.batch_size == BATCH[name]
    params = [
        param
        for layer in net(name).layer
        for param in (layer.convolution_param, layer.inner_product_param)
    ]
    assert {param.weight_filler.type for param in params if param.num_output} == FILLER[name]


@pytest.mark.parametrize("name", sorted(NETS))
def test_an_evaluation_covers_the_test_set_exactly(name):
    from caffe.proto import caffe_pb2

    batch_size = data_layer(name, caffe_pb2.TEST).data_param.batch_size
    assert solver(name).test_iter[0] * batch_size == TEST_SAMPLES[name]


@pytest.mark.parametrize("name", sorted(NETS))
def test_a_net_names_the_files_of_lrbench_data_and_a_solver_names_its_net(name):
    from caffe.proto import caffe_pb2

    dataset, _, pad = NETS[name]
    files = datasets.paths(dataset, "", pad)
    for phase, source in ((caffe_pb2.TRAIN, files.train), (caffe_pb2.TEST, files.test)):
        layer = data_layer(name, phase)
        assert layer.data_param.source == source
        assert layer.transform_param.mean_file in ("", files.mean)
    assert os.path.samefile(
        os.path.join(ROOT, "solvers", solver(name).net), path("train_test", name)
    )


@pytest.mark.parametrize("name", sorted(NETS))
@pytest.mark.parametrize("kind", ["solver", "train_test"])
def test_a_prototxt_begins_with_two_lines_of_description(kind, name):
    with open(path(kind, name)) as file:
        lines = file.read().splitlines()
    assert [line.startswith("# ") for line in lines[:3]] == [True, True, False]


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_a_net_has_the_published_number_of_parameters(name, trained):
    """ResNet-32 has 0.46 million (He et al.), without the running averages of its BatchNorms."""
    assert trained(name)[0] == PARAMETERS[name]


@pytest.mark.parametrize("name", sorted(NETS))
def test_caffe_trains_two_iterations_and_tests_with_finite_losses(name, trained):
    _, train_loss, test_loss, accuracy = trained(name)
    assert 0 < train_loss < 100 and 0 < test_loss < 100 and 0 <= accuracy <= 1


def test_resnet32_crops_and_mirrors_in_training_and_crops_the_middle_in_the_test():
    from caffe.proto import caffe_pb2

    train, test = (
        data_layer("resnet32", phase).transform_param for phase in (caffe_pb2.TRAIN, caffe_pb2.TEST)
    )
    assert (train.crop_size, train.mirror) == (32, True)
    assert (test.crop_size, test.mirror) == (32, False)


def test_resnet32_is_the_output_of_its_generator():
    from google.protobuf import text_format

    script = os.path.join(ROOT, "prototxt", "resnet32.py")
    spec = importlib.util.spec_from_file_location("resnet32", script)
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    with open(path("train_test", "resnet32")) as file:
        text = file.read()
    assert text.startswith(generator.ABOUT)
    expected = text_format.MessageToString(generator.resnet(generator.N))
    assert text_format.MessageToString(net("resnet32")) == expected


def test_a_resnet32_shortcut_is_every_second_pixel_and_zeros_for_any_batch(tmp_path):
    import caffe

    path = tmp_path / "net.prototxt"
    layers = [
        layer
        for layer in net("resnet32").layer
        if layer.name.startswith("stage2_block1_")
        and layer.name.endswith(("half", "zeros", "shortcut"))
    ]
    layers[0].bottom[0] = "in"
    path.write_text(
        'layer { name: "in" type: "Input" top: "in" '
        "input_param { shape { dim: 2 dim: 16 dim: 32 dim: 32 } } }\n"
        + "".join("layer { %s }\n" % layer for layer in layers)
    )
    shortcut = caffe.Net(str(path), caffe.TEST)
    for batch in (2, 5):
        pixels = np.random.RandomState(batch).randn(batch, 16, 32, 32).astype(np.float32)
        shortcut.blobs["in"].reshape(*pixels.shape)
        shortcut.blobs["in"].data[...] = pixels
        half = pixels[:, :, ::2, ::2]
        out = shortcut.forward()["stage2_block1_shortcut"]
        assert np.array_equal(out, np.concatenate([half, 0 * half], axis=1))


def test_the_digits_net_reaches_97_percent(tmp_path, digits):
    param = solver("digits")
    param.net, param.random_seed = path("train_test", "digits"), 1
    (tmp_path / "solver.prototxt").write_text(str(param))
    run = subprocess.run(
        ["caffe", "train", "-solver", str(tmp_path / "solver.prototxt")],
        cwd=digits,
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    )
    accuracies = [
        float(line.split()[-1]) for line in run.stderr.splitlines() if "accuracy = " in line
    ]
    assert len(accuracies) == 13 and max(accuracies) >= 0.97
