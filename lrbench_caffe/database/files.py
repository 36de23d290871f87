"""Trials in a file, in the format of :mod:`lrbench_caffe.database.incoming`, for those who have no database."""
import datetime
import gzip
import hashlib
import json
import os
import uuid
import zlib

from lrbench_caffe.database import incoming
from lrbench_caffe.errors import InputError
from lrbench_caffe.trial import Dataset, Evaluation, Framework, Network, Setup, Trial, from_dict, to_dict

ROWS_A_LINE = 200


def read(path):
    """The Trials of a file, compressed if its name ends in .gz, with all their rows.

    Raises InputError for one that cannot be read or is not right.
    """
    shared = {kind: [] for kind in incoming.SHARED}
    trials, rows = [], []
    try:
        with (gzip.open if path.endswith(".gz") else open)(path, "rb") as file:
            for kind, _, content in incoming.read(file):
                if kind == "rows":
                    rows[-1] += content
                elif kind == "trial":
                    trials.append(content)
                    rows.append([])
                else:
                    shared[kind].append(content)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError("%s cannot be read (%s): name a file of stored rows" % (path, getattr(error, "strerror", None) or error))
    return [_trial(trial, shared, found) for trial, found in zip(trials, rows)]


def _trial(content, shared, rows):
    kinds = ("framework", "network", "dataset", "policy")
    framework, network, dataset, policy = (shared[kind][content[kind] - 1] for kind in kinds)
    setup = Setup(Framework(**framework), Network(**network), from_dict(Dataset, dataset), content["classes"], content["solver"],
                  content["seed"])
    known = [(place, name) for place, name in enumerate(incoming.ROW) if name in Evaluation.__annotations__]
    evaluations = tuple(from_dict(Evaluation, {name: row[place] for place, name in known}) for row in rows)
    own = {name: content[name] for name in ("id", "host", "started", "blas", "threads", "state", "ended", "error", "attempt",
                                            "resumed_at")}
    return Trial(policy=policy["text"], function=policy["function"], parameters=policy["parameters"], n_params=policy["n_params"],
                 setup=setup, rows=evaluations, **own)


def write(path, trials):
    """Write Trials with their rows to a file, compressed if its name ends in .gz.

    Their host stands for the database that they were trained into.
    """
    digest, numbers, lines = hashlib.sha256(), {}, []

    def line(kind, content):
        lines.append((json.dumps({kind: content}, ensure_ascii=False, separators=(",", ":")) + "\n").encode())
        digest.update(lines[-1])

    def number(kind, content):
        known, key = numbers.setdefault(kind, {}), json.dumps(content, sort_keys=True)
        if key not in known:
            line(kind, content)
            known[key] = len(known) + 1
        return known[key]
    line("lrbench", {"version": incoming.VERSION, "made": datetime.datetime.utcnow().strftime("%Y-%m-%dT%H:%M:%SZ")})
    for trial in trials:
        content = to_dict(trial)
        setup = content["setup"]
        origin = {"database": str(uuid.uuid5(uuid.NAMESPACE_DNS, trial.host)), "name": trial.host}
        content.update(classes=setup["classes"], solver=setup["solver"], seed=setup["seed"])
        content.update({kind: number(kind, part) for kind, part in (
            ("origin", origin), ("framework", setup["framework"]), ("network", setup["network"]), ("dataset", setup["dataset"]),
            ("policy", {"text": trial.policy, "function": trial.function, "parameters": content["parameters"],
                        "n_params": trial.n_params}))})
        line("trial", {name: content[name] for name in incoming.TRIAL})
        values = [[row.get(name) for name in incoming.ROW] for row in content["rows"]]
        for start in range(0, len(values), ROWS_A_LINE):
            line("rows", values[start:start + ROWS_A_LINE])
    line("end", {"trials": len(trials), "sha256": digest.hexdigest()})
    data = b"".join(lines)
    part = path + ".part"
    with open(part, "wb") as file:
        file.write(gzip.compress(data) if path.endswith(".gz") else data)
    os.replace(part, path)
