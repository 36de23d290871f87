"""A small net and its solver, with parts that tests replace."""

DATA = """layer {{ name: "{name}" type: "Data" top: "data" top: "label" include {{ phase: {phase} }}
  transform_param {{ scale: 0.00390625 }}
  data_param {{ source: "{source}" batch_size: {batch} backend: LMDB }} }}
"""
BODY = """layer {{ name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param {{ num_output: 8 kernel_size: 3 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }}
layer {{ name: "ip" type: "InnerProduct" bottom: "conv1" top: "ip"
  inner_product_param {{ num_output: {classes} weight_filler {{ type: "xavier" }} }} }}
"""
LOSS = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }\n'
ACCURACY = (
    'layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy" '
    "include { phase: TEST } }\n"
)


def net(
    train="digits_train_lmdb",
    test="digits_test_lmdb",
    test_batch=100,
    classes=10,
    body=BODY,
    head=ACCURACY + LOSS,
):
    """The text of a net prototxt for the digits."""
    return (
        'name: "small"\n'
        + DATA.format(name="train", phase="TRAIN", source=train, batch=50)
        + DATA.format(name="test", phase="TEST", source=test, batch=test_batch)
        + body.format(classes=classes)
        + head
    )


def solver(
    schedule='lr_policy: "fixed"',
    net="net.prototxt",
    max_iter=60,
    test_interval=20,
    test_iter=4,
    base_lr=0.01,
    more="",
):
    """The text of a solver prototxt for the net."""
    return (
        'net: "%s"\n%s\nbase_lr: %s max_iter: %d test_interval: %d test_iter: %d\n'
        "momentum: 0.9 weight_decay: 0.0005 solver_mode: CPU snapshot_after_train: false "
        "random_seed: 7\n%s\n" % (net, schedule, base_lr, max_iter, test_interval, test_iter, more)
    )


def write(folder, solver_text=None, net_text=None):
    """Write the net and the solver into a folder; return the path of the solver."""
    folder.joinpath("net.prototxt").write_text(net() if net_text is None else net_text)
    path = folder.joinpath("solver.prototxt")
    path.write_text(solver() if solver_text is None else solver_text)
    return str(path)


def random_lmdb(path, samples):
    """Write an LMDB of random images and labels, in the shape of MNIST."""
    import lmdb
    import numpy as np
    from caffe.proto import caffe_pb2

    random = np.random.RandomState(0)
    with lmdb.open(path, map_size=1 << 30) as database, database.begin(write=True) as transaction:
        for n in range(samples):
            datum = caffe_pb2.Datum(
                channels=1,
                height=28,
                width=28,
                data=random.bytes(784),
                label=int(random.randint(10)),
            )
            transaction.put(b"%08d" % n, datum.SerializeToString())
