"""What is read: prototxts as Caffe's own parser reads them, and only the parts that are used."""

import fcntl
import os
import re
import subprocess
import sys
import threading

import nets
import numpy as np
import pytest

pytest.importorskip("caffe", reason="needs Caffe: run the tests with `make test`")

from caffe.proto import caffe_pb2

from lrbench_caffe.errors import InputError
from lrbench_caffe.training import (
    canonical,
    encoding,
    job,
    leveldb,
    lr_policy,
    prototxt,
    reader,
    sources,
)
from lrbench_caffe.trial import Job

GBK = "中国".encode("gbk")
# Texts of the fields of a solver that Caffe reads, and the values.
VALUES = {
    b"base_lr: - 0.01": -0.01,
    b"momentum: 1F": 1,
    b"momentum2: .5f": 0.5,
    b"gamma: 1.e-2": 0.01,
    b"power: inf": float("inf"),
    b"delta: 1e400": float("inf"),
    b"max_iter: 010": 8,
    b"display: 0x1F": 31,
    b"stepsize: -0X1": -1,
    b"debug_info: 0x1": True,
    b"snapshot_diff: t": True,
    b"test_compute_loss: False": False,
    b"snapshot_format: 0": 0,
    b"solver_mode: CPU": 0,
    b'net: "a" \'b"\' # a comment in GBK: \xd6\xd0 \r "c"': 'ab"',
    b'train_net: "\\u00e9\\x41\\101\\?"': "éAA?",
    b'snapshot_prefix: "caf\xc3\xa9"': "café",
    b'lr_policy: "\xd6\xd0\\326\\320"': encoding.decode(b"\xd6\xd0\xd6\xd0"),
    b'regularization_type: "\xf4\x8f\x9e\x80"': encoding.decode(b"\xf4\x8f\x9e\x80"),
    b"stepvalue: [1, 2], stepvalue: 3;": [1, 2, 3],
    b"train_state: < level: 1 >": caffe_pb2.NetState(level=1),
    b"random_seed: 9223372036854775807": 2**63 - 1,
}
V0_LAYER = b'layers { layer { name: "ip" type: "innerproduct" num_output: 3 det_fg_threshold: 1 } }'
V1_LAYER = b'layers { name: "ip" type: INNER_PRODUCT inner_product_param { num_output: 3 } }'
# Texts that Caffe rejects, most of which Python's parser accepts; the line and Caffe's reason.
REJECTED = {
    b"base_lr: 010": (1, "Expect a decimal number"),
    b"\nmax_iter: 1_000": (2, "Need space between number and identifier"),
    b"base_lr:\xc2\xa01": (1, "codepoint"),
    b'net: "\\q"': (1, "Invalid escape sequence"),
    b"net_param { layer { blobs { data: infinite } } }": (1, "infinite"),
    b"\n\t# \xd6\n max_iter: 3000000000": (3, "near 'max_iter: 3000000000': Integer out of range"),
}


def read(folder, text, read=reader.read_solver):
    path = folder / "read.prototxt"
    path.write_bytes(text)
    return read(str(path))


def test_a_solver_has_the_values_that_caffe_reads(tmp_path):
    solver = read(tmp_path, b"\n".join(VALUES))
    for text, value in VALUES.items():
        actual = getattr(solver, text.split(b":")[0].decode())
        if isinstance(value, list):
            assert list(actual) == value
        else:
            assert actual == (np.float32(value) if isinstance(actual, float) else value), text
    assert as_caffe_writes(tmp_path, b"\n".join(VALUES)) == as_caffe_writes(
        tmp_path, encoding.printed(solver).encode()
    )


def as_caffe_writes(folder, text):
    (folder / "in.prototxt").write_bytes(text)
    command = ["upgrade_solver_proto_text", "in.prototxt", "out.prototxt"]
    subprocess.run(command, cwd=str(folder), check=True, stderr=subprocess.DEVNULL)
    return (folder / "out.prototxt").read_bytes()


def test_a_plain_text_is_read_without_a_tool_of_caffe(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    text = (
        rb"""# comment
    net: "a\\b\"\x41\101\n" net_param: { layer < name: 'it"s' param { lr_mult: -1.5e-3 } > };
    test_iter: [4, 10], base_lr: 0 type: "caf"""
        + "é".encode()
        + b'"'
    )
    solver = read(tmp_path, text)
    assert (solver.net, solver.type) == ('a\\b"AA\n', "café")
    assert solver.net_param.layer[0].param[0].lr_mult == np.float32(-1.5e-3)
    monkeypatch.undo()
    written = as_caffe_writes(tmp_path, encoding.printed(solver).encode())
    assert written == as_caffe_writes(tmp_path, text)


@pytest.mark.parametrize("text", REJECTED, ids=lambda text: text.decode("latin-1").strip())
def test_an_invalid_text_is_an_error_with_caffes_line_column_and_reason(text, tmp_path):
    line, reason = REJECTED[text]
    with pytest.raises(InputError) as error:
        read(tmp_path, text)
    place = "%s is not a valid solver prototxt: line %d, column " % (
        tmp_path / "read.prototxt",
        line,
    )
    assert str(error.value).startswith(place) and reason in str(error.value)


def test_without_the_tools_of_caffe_the_error_is_that_of_pythons_parser(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert read(tmp_path, b"base_lr: 1f").base_lr == 1
    with pytest.raises(InputError, match="line 2, column 1, near 'learning_rate: 1'"):
        read(tmp_path, b"\nlearning_rate: 1")
    with pytest.raises(InputError, match="old format.*PATH"):
        read(tmp_path, V1_LAYER, reader.read_net)


def test_solver_type_is_read_as_type(tmp_path):
    solver = read(tmp_path, b"solver_type: ADAM")
    assert solver.type == "Adam" and not solver.HasField("solver_type")
    with pytest.raises(InputError, match="remove solver_type"):
        read(tmp_path, b'solver_type: SGD type: "Adam"')


@pytest.mark.parametrize("text", [V0_LAYER, V1_LAYER])
def test_nets_in_old_formats_are_upgraded_in_a_file_and_within_a_solver(text, tmp_path):
    """Caffe warns of a parameter that it no longer has; its tool then ends with status 1."""
    from_file = read(tmp_path, text, reader.read_net)
    solver = read(tmp_path, b"train_net_param { %s }" % text)
    resolved = prototxt.resolve(solver, "solver.prototxt")
    for net in (from_file, resolved.train_net_param):
        assert [layer.type for layer in net.layer] == ["InnerProduct"] and not net.layers
        assert net.layer[0].inner_product_param.num_output == 3


# The nets of a solver of 2014 in one file: a net to train and two to test, which share its weights.
V1_NET = """ name: "{name}"
  layers {{ name: "digits" type: DATA top: "data" top: "label"
    data_param {{ source: "{source}" backend: LMDB batch_size: 50 scale: 0.0625 }} }}
  layers {{ name: "ip" type: INNER_PRODUCT bottom: "data" top: "ip" {rates}
    inner_product_param {{ num_output: 10 weight_filler {{ type: "xavier" }} }} }}
  {head}
"""
V1_LOSS = 'layers { name: "loss" type: SOFTMAX_LOSS bottom: "ip" bottom: "label" }'
V1_ACCURACY = """layers { name: "prob" type: SOFTMAX bottom: "ip" top: "prob" }
  layers { name: "accuracy" type: ACCURACY bottom: "prob" bottom: "label" top: "accuracy" }"""
V1_SOLVER = """test_iter: 8 test_iter: 27 test_interval: 3 max_iter: 3 base_lr: 0.01 momentum: 0.9
lr_policy: "fixed" solver_type: NESTEROV random_seed: 7 solver_mode: CPU snapshot_prefix: "caffe"
"""


def test_a_solver_of_2014_with_its_nets_trains_as_caffe_does_with_the_nets_in_files(
    tmp_path, digits, dsn
):
    """Caffe itself upgrades nets in files only, and aborts on those within a solver."""
    from lrbench_caffe import train

    rates = "blobs_lr: 1 blobs_lr: 2 weight_decay: 1 weight_decay: 0"
    texts = [
        V1_NET.format(name=name, source=os.path.join(digits, source), rates=rates, head=head)
        for name, source, head in (
            ("train", "digits_train_lmdb", V1_LOSS),
            ("test", "digits_test_lmdb", V1_ACCURACY),
            ("test-on-train", "digits_train_lmdb", V1_ACCURACY),
        )
    ]
    fields = ("train_net", "test_net", "test_net")
    names = []
    for number, text in enumerate(texts):
        names.append("%d.prototxt" % number)
        tmp_path.joinpath(names[-1]).write_text(text)
    in_files = "".join('%s: "%s"\n' % pair for pair in zip(fields, names))
    within = "".join("%s_param {%s}\n" % pair for pair in zip(fields, texts))
    (tmp_path / "files.prototxt").write_text(V1_SOLVER + in_files)
    (tmp_path / "one.prototxt").write_text(V1_SOLVER + within)
    done = subprocess.run(
        ["caffe", "train", "--solver", "files.prototxt"],
        cwd=str(tmp_path),
        check=True,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ, GLOG_log_dir=str(tmp_path), GLOG_logtostderr="1"),
    )
    accuracies = [float(value) for value in re.findall(r"accuracy = (\S+)", done.stderr)]
    trial = train(tmp_path / "one.prototxt", snapshot_prefix=str(tmp_path / "ours"))
    ours, caffes = (weights(tmp_path, name + b"_iter_3.caffemodel") for name in (b"ours", b"caffe"))
    assert ours == caffes
    assert [row.top1 for row in trial.rows] == pytest.approx(accuracies[0::2], abs=1e-6)
    networks = []
    for name in ("files", "one"):
        path = str(tmp_path / (name + ".prototxt"))
        resolved = prototxt.resolve(prototxt.read_solver(path), path)
        networks.append(canonical.canonical_network(resolved.train_net_param))
        assert (resolved.type, len(resolved.test_net_param)) == ("Nesterov", 2)
        for net in (resolved.train_net_param, *resolved.test_net_param):
            assert net.layer[0].transform_param.scale == 0.0625 and not net.layers
    assert networks[0] == networks[1]


def test_bytes_that_are_not_utf8_survive_in_names_and_are_readable_in_the_database(tmp_path):
    net = read(tmp_path, b'name: "%s\\000" layer { name: "%s" type: "ReLU" }' % (GBK, GBK),
               reader.read_net)  # fmt: skip
    assert encoding.encode(net.name) == GBK + b"\0"
    assert encoding.readable(net.name) == r"\xd6\xd0\xb9\xfa\x00"
    text = canonical.canonical_network(net)
    assert text.isascii() and r'name: "\326\320\271\372"' in text
    again = caffe_pb2.NetParameter()
    assert encoding.encode(encoding.parse_printed(text, again).layer[0].name) == GBK


# A data layer with a file that does not exist, an unknown type and an unknown Python module.
UNUSED = """layer {{ name: "a" type: "Data" top: "a" {rule}
  data_param {{ source: "nowhere" backend: LMDB }} }}
layer {{ name: "b" type: "Unknown" {rule} }}
layer {{ name: "c" type: "Python" {rule} python_param {{ module: "nowhere" layer: "L" }} }}
"""
RULES = (
    'include { stage: "deploy" }',
    'include { phase: TEST stage: "deploy" } include { phase: TEST min_level: 2 }',
    "include { min_level: 1 }",  # the level of the solver's train_state is that of --level, 0
    'exclude { not_stage: "deploy" }',
)


def trained_by_caffe(folder, solver):
    """The weights after `caffe train` in a folder."""
    command = ["caffe", "train", "--solver", solver]
    subprocess.run(command, cwd=str(folder), check=True, stderr=subprocess.DEVNULL)
    return weights(folder, b"caffe_iter_3.caffemodel")


def weights(folder, name):
    net = caffe_pb2.NetParameter()
    with open(os.path.join(os.fsencode(str(folder)), name), "rb") as file:
        net.ParseFromString(file.read())
    blobs = {layer.name: [list(blob.data) for blob in layer.blobs] for layer in net.layer}
    assert any(blobs.values())
    return blobs


def test_the_weights_are_those_of_caffe_train_whatever_the_encoding_and_the_unused_layers(
    tmp_path, digits, lrbench
):
    """Everything in a folder whose name is not UTF-8: the data, the nets and the snapshots."""
    name = os.fsdecode(GBK)
    for part in ("train", "test"):
        source = os.path.join(digits, "digits_%s_lmdb" % part)
        os.symlink(source, str(tmp_path / ("%s_%s_lmdb" % (name, part))))
    net = nets.net(train="@_train_lmdb", test="@_test_lmdb").replace('name: "conv1"', 'name: "@"')
    net += "".join(UNUSED.format(rule=rule) for rule in RULES)
    solver = nets.solver(
        net="@.prototxt",
        max_iter=3,
        base_lr="1F",
        test_interval=3,
        more='snapshot_prefix: "caffe" train_state { level: 7 } # @',
    ).replace("snapshot_after_train: false", "")
    for file, text in ((name + ".prototxt", net), ("solver.prototxt", solver)):
        (tmp_path / file).write_bytes(text.encode().replace(b"@", GBK))
    caffes = trained_by_caffe(tmp_path, "solver.prototxt")
    prefix = str(tmp_path / ("ours" + name))
    done = lrbench("train", "solver.prototxt", "--snapshot-prefix", prefix, "--json",
                   cwd=str(tmp_path))  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert weights(tmp_path, b"ours%s_iter_3.caffemodel" % GBK) == caffes
    assert r'"name": "\\xd6\\xd0\\xb9\\xfa"' in done.stdout  # the dataset


def resolve(folder, solver_text, net_text=None, data=None):
    path = nets.write(folder, solver_text, net_text)
    return prototxt.resolve(prototxt.read_solver(path), path, data)


def test_a_bottom_without_a_layer_before_it_has_a_message(tmp_path, digits):
    def message(net):
        with pytest.raises(InputError) as error:
            resolve(tmp_path, None, net, digits)
        return str(error.value)

    test_data = nets.DATA.format(name="test", phase="TEST", source="digits_test_lmdb", batch=100)
    assert message(nets.net().replace(test_data, "")) == (
        "layer 'conv1' has the bottom 'data', but the net 'small' has no layer before it with this"
        " top in the phase TEST: the rules of layer 'train' leave it out: add another layer with"
        " include { phase: TEST }"
    )
    in_place = nets.net().replace('bottom: "conv1" top: "conv1"', 'bottom: "conv" top: "conv"')
    assert message(in_place).endswith(
        "layer before it with this top in the phase TRAIN: correct the name, or add a layer with"
        " this top: did you mean conv1?"
    )
    head = nets.ACCURACY + nets.LOSS
    order = nets.net(body="", head=head + nets.BODY.format(classes=10))
    assert message(order).endswith(" in the phase TRAIN: move layer 'ip' before it")
    staged = nets.net().replace("include { phase: TRAIN }", 'include { stage: "none" }')
    assert "the rules of layer 'train' leave it out" in message(staged)


def test_a_net_with_inputs_of_its_own_may_use_them(tmp_path, digits):
    text = 'input: "extra" input_shape { dim: 1 dim: 10 }\n' + nets.net()
    text += 'layer { name: "silence" type: "Silence" bottom: "extra" }\n'
    assert resolve(tmp_path, None, text, digits).train_net_param


def test_the_network_keeps_its_text_with_the_layers_of_other_states(tmp_path, digits):
    unused = UNUSED.format(rule=RULES[0])
    resolved = resolve(tmp_path, None, nets.net() + unused, digits)
    assert '"nowhere"' in canonical.canonical_network(resolved.train_net_param)
    with pytest.raises(InputError, match="nowhere"):
        resolve(tmp_path, None, nets.net() + UNUSED.format(rule="include { phase: TEST }"), digits)
    rules = "include { phase: TEST } exclude { phase: TRAIN }"
    with pytest.raises(InputError, match="include and exclude"):
        resolve(tmp_path, None, nets.net() + UNUSED.format(rule=rules), digits)


def test_level_and_stages_are_those_of_caffe_train():
    solver = caffe_pb2.SolverParameter()
    solver.train_state.level, solver.train_state.stage[:] = 7, ["own"]
    job.apply(Job("solver.prototxt"), solver)
    assert (solver.train_state.level, list(solver.train_state.stage)) == (0, ["own", ""])
    job.apply(Job("solver.prototxt", stages=("a,b",), level=2), solver)
    assert (solver.train_state.level, solver.train_state.stage[2:]) == (2, ["a", "b"])


# Lines of a solver, and whether Caffe builds it and trains an iteration.
NETS = {
    'net: "net"': True,
    'net: "net" test_interval: 5': True,
    'net: "net" test_iter: 1 test_interval: 5': True,
    'net: "net" test_iter: 1': False,
    'net: "net" test_iter: 1 test_interval: -5': False,
    'net: "net" test_interval: -5': True,
    'net: "net" test_net: "net"': False,
    'net: "net" test_net: "net" test_iter: 1 test_iter: 1 test_interval: 5': True,
    'net: "net" test_iter: 1 test_interval: 5 test_state {} test_state {}': False,
    'net: "net" test_state {}': False,
    'train_net: "net"': True,
    'train_net: "net" test_iter: 1 test_interval: 5': False,
    'train_net: "net" test_net: "net" test_interval: 5': False,
    'train_net: "net" test_net: "net" test_iter: 1 test_interval: 5': True,
    'train_net: "net" net: "net"': False,
    "": False,
}
SETTINGS = {
    "average_loss: 0": False,
    "average_loss: 2": True,
    'type: "AdaGrad" momentum: 0.9': False,
    'type: "AdaGrad"': True,
    'type: "RMSProp" rms_decay: 1': False,
    'type: "RMSProp" rms_decay: -0.1': False,
    'type: "RMSProp" rms_decay: 0 momentum: 0': True,
    'type: "RMSProp" momentum: 0.1': False,
    'type: "rmsprop"': False,
    'regularization_type: "L3"': True,
    'regularization_type: "L3" weight_decay: 0.1': False,
    "clip_gradients: 0": True,
    "clip_gradients: -7": True,
    "display: -3": True,
    "snapshot: -3": True,
    "momentum: -2": True,
    "delta: 0": True,
    'lr_policy: "step" gamma: 1 stepsize: 0': False,
    'lr_policy: "step" gamma: -1 stepsize: 1': False,
    'lr_policy: "sigmoid" gamma: 1': False,
    'lr_policy: "multistep" gamma: -1': False,
    'lr_policy: "poly"': True,
}
# Caffe accepts them, but it computes NaN or nothing.
USELESS = (
    "iter_size: 0",
    "iter_size: -1",
    'net: "net" test_iter: 0 test_interval: 5',
    'net: "net" test_iter: 1 test_iter: -1 test_interval: 5',
    "base_lr: nan",
    "base_lr: inf",
    'lr_policy: "exp" gamma: nan',
    "",  # no base_lr
)
# Caffe's verdicts: each solver is built and trained in a process of its own.
VERDICTS = """
import os, sys
import caffe
for path in sys.argv[1:]:
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        caffe.get_solver(path).step(1)
        os._exit(0)
    print(os.waitpid(child, 0)[1] == 0)
"""
NET = """layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param {
  shape { dim: 1 dim: 1 } shape { dim: 1 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


def test_a_solver_is_accepted_if_caffe_trains_it(tmp_path):
    """The nets to test, and the settings."""
    (tmp_path / "net").write_text(NET)
    fixed = ' base_lr: 0.1 lr_policy: "fixed" max_iter: 9 solver_mode: CPU'
    cases = {lines + fixed: expected for lines, expected in NETS.items()}
    for lines, expected in SETTINGS.items():
        schedule = fixed.replace(' lr_policy: "fixed"', "") if "lr_policy" in lines else fixed
        cases['net: "net" ' + lines + schedule] = expected
    paths = []
    for n, text in enumerate(cases):
        paths.append("%d.prototxt" % n)
        (tmp_path / paths[-1]).write_text(text)
    run = subprocess.run(
        [sys.executable, "-c", VERDICTS, *paths],
        cwd=str(tmp_path),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    verdicts = [line == "True" for line in run.stdout.split()]
    assert dict(zip(cases, verdicts)) == cases
    assert {text: accepts(tmp_path / path) for path, text in zip(paths, cases)} == cases


def accepts(path):
    try:
        solver = prototxt.resolve(prototxt.read_solver(str(path)), str(path))
        lr_policy.policy_from_solver(solver)
    except InputError as error:
        message = str(error)
        assert message.count("\n") == 0 and ": " in message
        return False
    tests = len(solver.test_net_param)
    assert tests == len(solver.test_iter) and min(solver.snapshot, solver.test_interval) >= 0
    return True


@pytest.mark.parametrize("lines", USELESS)
def test_a_setting_with_which_caffe_trains_nothing_is_an_error(lines, tmp_path):
    (tmp_path / "net").write_text(NET)
    lines += "" if "net:" in lines else ' net: "net"'
    lines += "" if "lr_policy" in lines else ' lr_policy: "fixed"'
    (tmp_path / "solver.prototxt").write_text(lines + " max_iter: 9")
    assert not accepts(tmp_path / "solver.prototxt")


@pytest.mark.parametrize(
    "schedule",
    ["", "base_lr: nan", 'lr_policy: "step"', 'lr_policy: "exp" gamma: -1', 'lr_policy: "new"'],
)
def test_a_policy_replaces_an_incomplete_schedule(schedule):
    from google.protobuf import text_format

    from lrbench_caffe import policies

    for text, native in (("EXP(k0=0.5, gamma=0.9)", True), ("SIN(k0=0.1, k1=0.2, l=5)", False)):
        solver = text_format.Parse(schedule, caffe_pb2.SolverParameter(max_iter=10))
        assert lr_policy.install(policies.Policy.parse(text), solver) is native
        assert np.isfinite(solver.base_lr)
        assert str(lr_policy.policy_from_solver(solver)) == (text if native else "FIX(k0=0.1)")


def test_tune_and_range_do_not_read_the_schedule_of_the_solver(tmp_path, digits):
    from lrbench_caffe.evaluator.trainer import Trainer

    path = nets.write(tmp_path, nets.solver("", base_lr="nan"))
    trainer = Trainer(path, None, "range", data=digits)
    assert (trainer.max_iter, trainer.setup.dataset.name) == (60, "digits")


def write_hdf5(folder, names):
    import h5py

    random = np.random.RandomState(0)
    for name in names:
        with h5py.File(str(folder / name), "w") as file:
            file["data"], file["label"] = random.rand(20, 1, 8, 8), random.randint(0, 10, 20)


HDF5_NET = (
    'layer { name: "data" type: "HDF5Data" top: "data" top: "label" '
    'hdf5_data_param { source: "%s" batch_size: 10 } }\n' + nets.BODY.format(classes=10)
    + nets.ACCURACY + nets.LOSS
)  # fmt: skip


def test_the_names_in_a_list_of_hdf5_files_are_looked_up_in_the_three_places(
    tmp_path, lrbench, monkeypatch
):
    """One file below --data, one beside the prototxt in a folder with a blank, one here."""
    data, beside, here = tmp_path / "data", tmp_path / "the nets", tmp_path / "here"
    for n, folder in enumerate((data, beside, here)):
        folder.mkdir()
        write_hdf5(folder, ["%d.h5" % n])
    (data / "digits.txt").write_text("0.h5 1.h5\n2.h5")
    (here / "all.txt").write_text("../data/0.h5\n1.h5\n2.h5\n")
    os.symlink(str(beside / "1.h5"), str(here / "1.h5"))
    solver = nets.solver(max_iter=3, test_interval=3, more='snapshot_prefix: "caffe"')
    solver = solver.replace("snapshot_after_train: false", "")
    path = nets.write(beside, solver, HDF5_NET % "digits.txt")
    nets.write(here, solver, HDF5_NET % "all.txt")
    caffes = trained_by_caffe(here, "solver.prototxt")
    done = lrbench("train", path, "--data", data, "--snapshot-prefix", here / "ours", "--json",
                   cwd=str(here))  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert weights(here, b"ours_iter_3.caffemodel") == caffes
    assert '"dataset": {"name": "digits",' in done.stdout
    (beside / "1.h5").unlink()
    (here / "1.h5").unlink()
    monkeypatch.chdir(str(here))
    with pytest.raises(InputError) as error:
        prototxt.resolve(prototxt.read_solver(path), path, str(data))
    assert all(str(folder / "1.h5") in str(error.value) for folder in (data, beside, here))


IMAGES_NET = (
    'layer {{ name: "data" type: "ImageData" top: "data" top: "label" '
    'image_data_param {{ source: "list.txt" batch_size: 2 {root} }} }}\n'
)


def test_the_images_of_a_list_are_looked_up_in_the_three_places(tmp_path, monkeypatch):
    nets_folder, data = tmp_path / "nets", tmp_path / "data"
    for folder in (nets_folder, data):
        folder.mkdir()
    (nets_folder / "list.txt").write_text("a b.png 0\nc.png 1\n")

    def root_folder(root):
        (nets_folder / "net.prototxt").write_text(IMAGES_NET.format(root=root))
        path = str(nets_folder / "solver.prototxt")
        solver = caffe_pb2.SolverParameter(train_net="net.prototxt")
        layer = prototxt.resolve(solver, path, str(data)).train_net_param.layer[0]
        return layer.image_data_param.root_folder

    with pytest.raises(InputError, match="first image .* tried .*data/a b.png.*nets/a b.png"):
        root_folder("")
    (nets_folder / "images").mkdir()
    (nets_folder / "images" / "a b.png").touch()
    assert root_folder('root_folder: "images"') == str(nets_folder / "images") + "/"
    assert root_folder('root_folder: "images/"') == str(nets_folder / "images") + "/"
    (data / "a b.png").touch()
    assert root_folder("") == str(data) + "/"
    (data / "my-a b.png").touch()  # Caffe puts the name directly behind the root_folder
    assert root_folder('root_folder: "my-"') == str(data / "my-")
    monkeypatch.chdir(str(data))
    (nets_folder / "list.txt").write_text("a b.png 0\n%s/c.png 1\n" % data)
    assert root_folder("") == ""


@pytest.fixture(scope="module")
def digits_leveldb(tmp_path_factory):
    """A folder with 40 random images as the LevelDBs train and test."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("leveldb")
    pixels = np.random.RandomState(0).randint(0, 256, (20, 8, 8), np.uint8)
    for n, image in enumerate(pixels):
        Image.fromarray(image).save(str(folder / ("%d.png" % n)))
    (folder / "list").write_text("".join("%d.png %d\n" % (n, n % 10) for n in range(20)))
    for part in ("train", "test"):
        command = ["convert_imageset", "--gray", "--backend=leveldb", "./", "list", part]
        subprocess.run(command, cwd=str(folder), check=True, stderr=subprocess.DEVNULL)
    return folder


LEVELDB_NET = nets.net(train="train", test="test", test_batch=20).replace("backend: LMDB", "")


def databases(folder, digits_leveldb, net=LEVELDB_NET):
    return leveldb.Databases(resolve(folder, None, net, str(digits_leveldb)))


def test_trainings_on_a_leveldb_wait_for_each_other_and_a_stop_ends_the_wait(
    tmp_path, digits_leveldb
):
    folder = os.open(str(digits_leveldb / "train"), os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)  # as another training has it
    waiting, stop, notes = databases(tmp_path, digits_leveldb), threading.Event(), []

    def set_stop(kind, note):
        notes.append((kind, note))
        stop.set()

    assert not waiting.try_lock() and not waiting.lock(stop, set_stop)
    ((kind, note),) = notes
    assert kind == "note" and str(digits_leveldb / "train") in note

    def release(kind, note):
        os.close(folder)

    assert waiting.lock(threading.Event(), release)


def test_a_study_of_two_jobs_on_a_leveldb_trains_one_trial_at_a_time(
    tmp_path, digits_leveldb, lrbench, name, trials
):
    path = nets.write(tmp_path, nets.solver(test_iter=1, max_iter=3), LEVELDB_NET)
    for part in ("train", "test"):
        copy = tmp_path / part
        subprocess.run(["cp", "-r", str(digits_leveldb / part), str(copy)], check=True)
    done = lrbench("study", "run", name, path, "--jobs", 2, "--seeds", 2, "--policy",
                   "FIX(k0=0.01)", cwd=str(tmp_path))  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [trial.state for trial in trials(name)] == ["finished"] * 2


HOLD = """
import fcntl, sys
file = open(sys.argv[1], "r+")
fcntl.lockf(file, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


def test_a_leveldb_that_caffe_cannot_open_is_an_error_before_the_training(tmp_path, digits_leveldb):
    twice = LEVELDB_NET.replace('"test"', '"train"').replace('name: "train"', 'name: "test"', 1)
    with pytest.raises(InputError, match="both read the LEVELDB .*/train"):
        databases(tmp_path, digits_leveldb, twice)
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(digits_leveldb), str(copy)], check=True)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(copy / "test" / "LOCK")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout.readline() == b"locked\n"
    with pytest.raises(InputError, match="another program has opened"):
        databases(tmp_path, copy).try_lock()
    holder.communicate()
    (copy / "test" / "CURRENT").unlink()
    with pytest.raises(InputError, match="not a LevelDB"):
        databases(tmp_path, copy)


def test_settings_are_recorded_by_the_names_of_their_values():
    settings = canonical.solver_settings(
        caffe_pb2.SolverParameter(test_iter=[4, 5], solver_mode=1, momentum=0.9, type="SGD")
    )
    assert settings == {"test_iter": [4, 5], "solver_mode": "GPU", "momentum": 0.9}


def test_a_dataset_in_a_folder_that_is_not_utf8_has_a_readable_name(tmp_path, digits):
    source = tmp_path / os.fsdecode(GBK + b"_train_lmdb")
    os.symlink(os.path.join(digits, "digits_train_lmdb"), str(source))
    net = nets.net(train="@").encode().replace(b"@", GBK + b"_train_lmdb")
    (tmp_path / "net.prototxt").write_bytes(net)
    solver = caffe_pb2.SolverParameter(train_net="net.prototxt")
    resolved = prototxt.resolve(solver, str(tmp_path / "solver.prototxt"))
    found = sources.find_source(resolved.train_net_param, caffe_pb2.TRAIN)
    assert sources.describe_dataset(found, None).name == r"\xd6\xd0\xb9\xfa"
    assert os.path.realpath(found.path) == os.path.join(digits, "digits_train_lmdb")


@pytest.mark.parametrize(
    "samples, batch_size, test_iter, advice",
    [
        (400, 100, 4, None),
        (400, 100, 3, "test_iter 4 covers them exactly"),
        (400, 90, 4, "batch_size 80 and test_iter 5 cover them exactly"),
        (397, 100, 3, "test_iter 4 covers them, and 3 of them count twice"),
        (397, 100, 4, "3 of them count twice"),
    ],
)
def test_a_note_says_how_the_test_set_is_covered(samples, batch_size, test_iter, advice):
    source = sources.Source("data", "/data/lmdb", batch_size, samples, None, True)
    note = sources.coverage_note(source, test_iter)
    assert (note and note.split(": ")[1]) == advice
    if note:
        assert sources.coverage_note(source, test_iter, "validation") == (
            "on the set validation, " + note
        )
