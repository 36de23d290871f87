"""The store: trials and their rows in PostgreSQL, as plain values in and out.

Every method is one transaction that may be repeated without harm, so a journal can be replayed and a lost connection costs no
more than one more try.  Use a Store in one thread at a time; any number of stores may write at once.
"""

import contextlib
import math
import os
from itertools import groupby

from lrbench_caffe.database import schema, server
from lrbench_caffe.errors import DatabaseUnavailable, InputError
from lrbench_caffe.trial import Dataset, Evaluation, Framework, Network, Setup, Trial

try:
    import psycopg2
    from psycopg2.extensions import parse_dsn
    from psycopg2.extras import Json, NamedTupleCursor
except ImportError as error:
    raise InputError(
        "the database needs psycopg2, which this Python cannot import (%s): install python3-psycopg2 or "
        "psycopg2-binary" % error
    )

# The rows that trials share, each as it is found and as it is made.
_SHARED = {
    "framework": (
        "SELECT id FROM framework WHERE name = %(name)s AND version = %(version)s",
        "INSERT INTO framework (name, version) VALUES (%(name)s, %(version)s) ON CONFLICT DO NOTHING",
    ),
    "network": (
        "SELECT id FROM network WHERE hash = %(hash)s AND name = %(name)s",
        "INSERT INTO network (name, hash, prototxt) VALUES (%(name)s, %(hash)s, %(prototxt)s) ON CONFLICT DO NOTHING",
    ),
    "dataset": (
        "SELECT id FROM dataset WHERE name = %(name)s AND shape IS NOT DISTINCT FROM %(shape)s::integer[]"
        " AND train_samples IS NOT DISTINCT FROM %(train_samples)s AND test_samples IS NOT DISTINCT FROM %(test_samples)s",
        "INSERT INTO dataset (name, shape, train_samples, test_samples)"
        " VALUES (%(name)s, %(shape)s::integer[], %(train_samples)s, %(test_samples)s) ON CONFLICT DO NOTHING",
    ),
    "task": (
        "SELECT id FROM task WHERE classes = %(classes)s",
        "INSERT INTO task (classes) VALUES (%(classes)s) ON CONFLICT DO NOTHING",
    ),
    "policy": (
        "SELECT id FROM policy WHERE md5(text) = md5(%(text)s) AND text = %(text)s",
        "INSERT INTO policy (text, function, parameters, n_params)"
        " VALUES (%(text)s, %(function)s, %(parameters)s, %(n_params)s) ON CONFLICT DO NOTHING",
    ),
}

_BEGIN = """
    INSERT INTO trial (id, framework_id, network_id, dataset_id, task_id, policy_id, solver, seed, host, attempt,
                       resumed_at, blas, threads, started_at)
    VALUES (%(id)s, %(framework)s, %(network)s, %(dataset)s, %(task)s, %(policy)s, %(solver)s, %(seed)s, %(host)s,
            %(attempt)s, %(resumed_at)s, %(blas)s, %(threads)s, to_timestamp(%(started)s))
    ON CONFLICT (id) DO UPDATE SET
        attempt = excluded.attempt, resumed_at = excluded.resumed_at, host = excluded.host, blas = excluded.blas,
        threads = excluded.threads, state = 'running', ended_at = NULL, error = NULL, best_iteration = NULL, best_top1 = NULL
        WHERE excluded.attempt > trial.attempt"""

# What an attempt measured after the snapshot that a later one goes on from belongs to a training that is no more.
_FORGET = (
    "DELETE FROM evaluation WHERE trial_id = %(id)s AND iteration > COALESCE(%(resumed_at)s, -1)"
)

_ADD = """
    INSERT INTO evaluation (trial_id, iteration, lr, train_loss, test_loss, top1, top5, ac, cd, cdac, ld, resumed_at,
                            class_confidence)
    SELECT %(trial)s, iteration, lr, train_loss, test_loss, top1, top5, ac, cd, cdac, ld, resumed_at, class_confidence::real[]
    FROM unnest(
        %(iteration)s::integer[], %(lr)s::float8[], %(train_loss)s::float8[], %(test_loss)s::float8[], %(top1)s::float8[],
        %(top5)s::float8[], %(ac)s::float8[], %(cd)s::float8[], %(cdac)s::float8[], %(ld)s::float8[], %(resumed_at)s::integer[],
        %(class_confidence)s::text[]
    ) AS new (iteration, lr, train_loss, test_loss, top1, top5, ac, cd, cdac, ld, resumed_at, class_confidence)
    WHERE NOT EXISTS (SELECT FROM trial WHERE id = %(trial)s AND attempt > %(attempt)s
                      AND new.iteration > COALESCE(trial.resumed_at, -1))
    ON CONFLICT (trial_id, iteration) DO NOTHING"""

_NUMBERS = [name for name in Evaluation.__annotations__ if name != "class_confidence"]

_END = """
    UPDATE trial SET state = %(state)s, ended_at = to_timestamp(%(ended)s), error = %(error)s, (best_iteration, best_top1) = (
        SELECT iteration, top1 FROM evaluation WHERE trial_id = %(id)s ORDER BY top1 DESC, iteration LIMIT 1)
    WHERE id = %(id)s AND attempt <= %(attempt)s"""

_CHOSEN = """(%(id)s IS NULL OR trial.id = %(id)s)
      AND (%(network)s IS NULL OR network.name = %(network)s OR network.hash = %(network)s)
      AND (%(dataset)s IS NULL OR dataset.name = %(dataset)s)
      AND (%(policy)s IS NULL OR policy.text = %(policy)s)
      AND (%(function)s IS NULL OR policy.function = %(function)s)
      AND (%(state)s IS NULL OR trial.state = %(state)s)
      AND (%(study)s IS NULL OR trial.id IN (SELECT trial_id FROM study_trial JOIN study ON study.id = study_id
                                             WHERE study.name = %(study)s))"""

_TRIALS = (
    """
    SELECT trial.id::text, policy.text AS policy, function, parameters, n_params, framework.name AS framework, version,
           network_id, dataset.name AS dataset, shape, train_samples, test_samples, classes, solver, seed, host, blas, threads,
           state, error, attempt, resumed_at, origin.name AS origin,
           extract(epoch FROM started_at)::double precision AS started, extract(epoch FROM ended_at)::double precision AS ended
    FROM trial
    JOIN policy ON policy.id = policy_id JOIN network ON network.id = network_id JOIN dataset ON dataset.id = dataset_id
    JOIN framework ON framework.id = framework_id LEFT JOIN task ON task.id = task_id LEFT JOIN origin ON origin.id = origin_id
    WHERE """
    + _CHOSEN
    + """
    ORDER BY started_at, trial.id"""
)

# In the order of Evaluation's fields.
_ROWS = """
    SELECT trial_id::text, iteration, lr, train_loss, test_loss, top1, top5, ac, cd, cdac, ld, resumed_at,
           class_confidence
    FROM evaluation WHERE trial_id = ANY (%s::uuid[]) ORDER BY trial_id, iteration"""

_BEST_ROWS = """
    SELECT DISTINCT ON (trial_id) trial_id::text, iteration, lr, train_loss, test_loss, top1, top5, ac, cd, cdac, ld, resumed_at,
           class_confidence
    FROM evaluation WHERE trial_id = ANY (%s::uuid[]) ORDER BY trial_id, top1 DESC, iteration"""


class Store:
    """Trials in one database: that of dsn, else of ``LRBENCH_DSN``, else of the private server, which is started on demand.

    A context manager that closes the connection.  The methods raise InputError for what the database refuses, and
    DatabaseUnavailable when the connection is lost and a new one cannot be had; the next call tries again.
    """

    def __init__(self, dsn=None, read_only=False):
        """read_only: the database is asked to refuse all changes.  Raises InputError when the database cannot be used."""
        self._dsn = dsn or os.environ.get("LRBENCH_DSN")
        self._read_only = read_only
        self._connection = _connect(self._dsn, read_only)
        self.where = _where(
            self._connection.get_dsn_parameters()
        )  # the database as messages name it

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self):
        """Close the connection; a later call opens a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def begin(self, trial):
        """Record a trial that begins; its rows and its end are recorded by :meth:`add` and :meth:`end`."""
        setup = trial.setup
        shared = {
            "framework": vars(setup.framework),
            "network": vars(setup.network),
            "dataset": dict(
                vars(setup.dataset),
                shape=None if setup.dataset.shape is None else list(setup.dataset.shape),
            ),
            "task": None if setup.classes is None else {"classes": setup.classes},
            "policy": {
                "text": trial.policy,
                "function": trial.function,
                "parameters": Json(trial.parameters),
                "n_params": trial.n_params,
            },
        }

        def work(cursor):
            ids = {
                table: content and _shared(cursor, table, content)
                for table, content in shared.items()
            }
            cursor.execute(
                _BEGIN,
                dict(
                    ids,
                    id=trial.id,
                    solver=Json(setup.solver),
                    seed=setup.seed,
                    host=trial.host,
                    blas=trial.blas,
                    threads=trial.threads,
                    started=trial.started,
                    attempt=trial.attempt,
                    resumed_at=trial.resumed_at,
                ),
            )
            if trial.attempt > 1 and cursor.rowcount:
                cursor.execute(_FORGET, {"id": trial.id, "resumed_at": trial.resumed_at})

        self.transaction(work)

    def add(self, trial_id, *rows, attempt=1):
        """Record Evaluations of a trial, to be seen by others at once; where there is one of an iteration, that one stays.

        What an attempt measured that a later one did not go on from is left out.
        """
        values = {name: [_finite(getattr(row, name)) for row in rows] for name in _NUMBERS}
        values["class_confidence"] = [_array(row.class_confidence) for row in rows]
        self.transaction(
            lambda cursor: cursor.execute(_ADD, dict(values, trial=trial_id, attempt=attempt))
        )

    def end(self, trial_id, state, ended, error=None, attempt=1):
        """Record how and when (seconds since the epoch) a trial ended, and which of its rows is the best.

        Of a trial that was started again since, the end of an earlier attempt says nothing.
        """
        text = (
            error and error.replace("\0", "").encode("utf-8", "replace").decode()
        )  # a log may hold anything

        def work(cursor):
            cursor.execute(
                _END,
                {"id": trial_id, "state": state, "ended": ended, "error": text, "attempt": attempt},
            )
            if cursor.rowcount:
                return
            cursor.execute("SELECT FROM trial WHERE id = %s", [trial_id])
            if cursor.rowcount == 0:
                raise InputError("there is no trial %s in the database" % trial_id)

        self.transaction(work)

    def trial(self, trial_id):
        """The Trial of that id, with all its rows.  Raises InputError when there is none."""
        found = self.transaction(lambda cursor: _trials(cursor, _ROWS, {"id": trial_id}))
        if not found:
            raise InputError("there is no trial %s in the database" % trial_id)
        return found[0]

    def trials(
        self,
        network=None,
        dataset=None,
        policy=None,
        function=None,
        state=None,
        study=None,
        best_only=False,
    ):
        """The trials that fit all that is given, in the order they started.

        network is a name or a hash, dataset a name, policy a canonical text, function one of the paper's names, study a study's
        name.  best_only reads only the best row of each, all that a ranking needs; thousands of trials with all their rows need
        gigabytes.
        """
        given = {
            "network": network,
            "dataset": dataset,
            "policy": policy,
            "function": function,
            "state": state,
            "study": study,
        }
        return self.transaction(
            lambda cursor: _trials(cursor, _BEST_ROWS if best_only else _ROWS, given)
        )

    def rows(self, trial_ids):
        """{trial's id: its Evaluations} of these trials."""

        def work(cursor):
            cursor.execute(_ROWS, [list(trial_ids)])
            return {
                key: tuple(_evaluation(line) for line in lines)
                for key, lines in groupby(cursor, lambda line: line[0])
            }

        return self.transaction(work)

    @contextlib.contextmanager
    def unrepeated(self):
        """A cursor in one transaction, for what is too large to be done again by itself; raises as the other methods do."""
        with self._told(), self._connection, self._connection.cursor() as cursor:
            yield cursor

    @contextlib.contextmanager
    def snapshot(self):
        """The connection in a transaction that sees the database as it is at its beginning."""
        with self._told(), self._connection:
            with self._connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            yield self._connection

    @contextlib.contextmanager
    def _told(self):
        try:
            yield
        except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
            self.close()
            raise InputError(
                "the database %s did not finish, and nothing was changed: %s"
                % (self.where, _reason(error))
            ) from None
        except psycopg2.Error as error:
            raise InputError(
                "the database %s refuses a value: %s" % (self.where, _reason(error))
            ) from None

    def transaction(self, work):
        """work(cursor) in a transaction; once more on a new connection when the one at hand turns out to be lost."""
        fresh = self._connection is None
        if fresh:
            try:
                self._connection = _connect(self._dsn, self._read_only)
            except InputError as error:
                raise DatabaseUnavailable(str(error))
        try:
            with self._connection, self._connection.cursor(
                cursor_factory=NamedTupleCursor
            ) as cursor:
                return work(cursor)
        except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
            self.close()
            if fresh:
                raise DatabaseUnavailable(
                    "the database %s does not answer: %s" % (self.where, _reason(error))
                )
        except psycopg2.Error as error:
            raise InputError("the database %s refuses a value: %s" % (self.where, _reason(error)))
        except InputError:
            raise
        except ValueError as error:  # text that no PostgreSQL can hold
            raise InputError("the database %s cannot hold a value: %s" % (self.where, error))
        return self.transaction(work)


def _connect(dsn, read_only=False):
    """A connection to the database with its schema at the newest version, or InputError."""
    try:
        options = parse_dsn(dsn or server.start())
    except psycopg2.ProgrammingError:  # its message may quote the password
        raise InputError(
            "the database's name is no connection string: write postgresql://USER:PASSWORD@HOST/DATABASE or "
            '"host=HOST dbname=DATABASE user=USER"'
        )
    where = _where(options)
    defaults = {
        "connect_timeout": 10,
        "application_name": "lrbench",
        "client_encoding": "UTF8",
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
    }
    if psycopg2.extensions.libpq_version() >= 120000:
        defaults["tcp_user_timeout"] = 30000  # for a network that swallows what is sent
    try:
        connection = psycopg2.connect(**dict(defaults, **options))
    except psycopg2.Error as error:
        raise InputError("cannot use the database %s: %s" % (where, _reason(error)))
    try:
        # Under a stricter level a writer would not see the shared rows that another has just made.
        connection.set_session(isolation_level="READ COMMITTED")
        if connection.server_version < 110000:
            raise InputError(
                "the database %s is PostgreSQL %d.%d: it must be 11 or later"
                % ((where,) + divmod(connection.server_version // 100, 100))
            )
        schema.upgrade(connection)
        connection.set_session(readonly=read_only)
    except psycopg2.Error as error:
        connection.close()
        raise InputError(
            "cannot lay out the schema in the database %s: %s" % (where, _reason(error))
        )
    except InputError:
        connection.close()
        raise
    return connection


def _where(options):
    """A database as a message names it: without its password."""
    host = (
        options.get("host") or options.get("hostaddr") or os.environ.get("PGHOST") or "this machine"
    )
    return "%s at %s, port %s" % (
        options.get("dbname") or "(default)",
        host,
        options.get("port") or os.environ.get("PGPORT") or "5432",
    )


def _reason(error):
    """What PostgreSQL or its library said, in a line."""
    detail = getattr(error.diag, "message_detail", None)
    text = error.diag.message_primary or str(error)
    return " ".join((text + (": " + detail if detail else "")).split()) or type(error).__name__


def _shared(cursor, table, content):
    """The id of the row with this content, made if there is none.

    Looked up first, since an insert that conflicts uses up an id; looked up again, since another may have made it meanwhile.
    All writers go through the tables in one order, so that they wait for each other but never in a circle.
    """
    find, make = _SHARED[table]
    cursor.execute(find, content)
    if cursor.rowcount == 0:
        cursor.execute(make, content)
        cursor.execute(find, content)
    return cursor.fetchone().id


def _array(values):
    """An array of metrics as PostgreSQL writes it, or None: arrays of different lengths are no array of arrays."""
    return (
        None
        if values is None
        else "{%s}" % ",".join("NULL" if _finite(v) is None else repr(_finite(v)) for v in values)
    )


def _finite(value):
    """A metric as the database holds it: NULL for what is no finite number."""
    return float(value) if value is not None and math.isfinite(value) else None


def filter_clause(filters):
    """(a query for the ids of the trials that fit filters, as of Store.trials; its values)."""
    nothing = dict.fromkeys(["id", "network", "dataset", "policy", "function", "state", "study"])
    return (
        """SELECT trial.id FROM trial JOIN policy ON policy.id = policy_id JOIN network ON network.id = network_id
               JOIN dataset ON dataset.id = dataset_id WHERE """
        + _CHOSEN,
        dict(nothing, **filters),
    )


def _trials(cursor, rows, given):
    """The trials that fit what is given: one query for them, one for their networks, one for their rows."""
    cursor.execute(_TRIALS, filter_clause(given)[1])
    found = cursor.fetchall()
    cursor.execute(
        "SELECT * FROM network WHERE id = ANY (%s)", [list({line.network_id for line in found})]
    )
    networks = {line.id: Network(line.name, line.hash, line.prototxt) for line in cursor.fetchall()}
    cursor.execute(rows, [[line.id for line in found]])
    rows_of = {
        key: tuple(_evaluation(line) for line in lines)
        for key, lines in groupby(cursor, lambda line: line[0])
    }
    return [_trial(line, networks[line.network_id], rows_of.get(line.id, ())) for line in found]


def _evaluation(line):
    """The Evaluation that a line of _ROWS describes."""
    return Evaluation(*line[1:-1], None if line[-1] is None else tuple(line[-1]))


def _trial(line, network, rows):
    """The Trial that a line of _TRIALS describes."""
    shape = None if line.shape is None else tuple(line.shape)
    setup = Setup(
        Framework(line.framework, line.version),
        network,
        Dataset(line.dataset, shape, line.train_samples, line.test_samples),
        line.classes,
        line.solver,
        line.seed,
    )
    return Trial(
        line.id,
        line.policy,
        line.function,
        line.parameters,
        line.n_params,
        setup,
        line.host,
        line.started,
        line.blas,
        line.threads,
        line.state,
        line.ended,
        line.error,
        rows,
        line.attempt,
        line.resumed_at,
        line.origin,
    )
