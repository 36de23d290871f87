"""A session: a connection to one database that is opened again when it is lost.

PostgreSQL's errors become the program's own here, by their SQLSTATE.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, Callable, Iterator, TypeVar

import psycopg2
from psycopg2.extras import NamedTupleCursor

from lrbench_caffe.database.connection import connect, display_name, identity, reason
from lrbench_caffe.database.watch import watched
from lrbench_caffe.errors import ChangeRefused, DatabaseUnavailable, InputError, TrialMissing

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

T = TypeVar("T")
S = TypeVar("S", bound="Session")

# SQLSTATE's classes of errors that are a value's own fault: data exceptions and violated
# constraints. All other errors may pass, so the same change is tried again later.
_VALUE_ERRORS = ("22", "23")
# Classes of errors that concern the whole database: its connection, its transactions, its memory,
# disk and connections, locks, shutdowns, the system and internal errors.
_DATABASE_ERRORS = ("08", "25", "53", "55", "57", "58", "XX")
_MISSING_REFERENCE = "23503"  # foreign_key_violation
_LACKING_RIGHTS = ("42501", "25006")  # insufficient_privilege, read_only_sql_transaction


class Session:
    """A connection to one database; a context manager that closes it.

    Arguments, attributes and errors are those of :class:`lrbench_caffe.database.Store`.
    """

    def __init__(
        self,
        dsn: str | None = None,
        read_only: bool = False,
        lock_timeout: float | None = None,
    ) -> None:
        self._dsn = dsn or os.environ.get("LRBENCH_DSN")
        self._read_only, self._lock_timeout = read_only, lock_timeout
        connection = connect(self._dsn, read_only, lock_timeout)
        self._connection: Connection | None = connection
        self.where = display_name(connection.get_dsn_parameters())
        try:
            self.identity = identity(connection, self.where)
        except InputError:
            connection.close()
            raise

    def __enter__(self: S) -> S:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; a later call opens a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def select(self, query: str, values: object = None) -> list[Any]:
        """Run a query in a transaction and return its result as a list of named tuples."""

        def fetch(cursor: Any) -> list[Any]:
            cursor.execute(query, values)
            lines: list[Any] = cursor.fetchall()
            return lines

        return self.transaction(fetch)

    def transaction(self, work: Callable[[Any], T]) -> T:
        """Run ``work(cursor)`` in one transaction and return its result.

        If the connection turns out to be lost, the whole transaction runs once more on a new
        connection. The commit may have succeeded before the connection was lost, so ``work`` has
        to be repeatable without harm.

        Args:
            work: Called with a cursor whose result lines are named tuples.

        Raises:
            InputError: The database rejects a value.
            DatabaseUnavailable: The connection is lost and cannot be opened again.
        """
        if self._connection is not None:
            with contextlib.suppress(DatabaseUnavailable):  # the server may have been restarted
                return self._run(self._connection, work)
        try:
            connection = self._connect_again()
        except InputError as error:
            raise DatabaseUnavailable(str(error)) from error
        return self._run(connection, work)

    def _run(self, connection: Connection, work: Callable[[Any], T]) -> T:
        """Run ``work(cursor)`` in one transaction, with psycopg2's errors as the program's own."""
        try:
            with watched(connection), connection, connection.cursor(
                cursor_factory=NamedTupleCursor
            ) as cursor:
                return work(cursor)
        except psycopg2.Error as error:
            if _is_missing_trial(error):
                raise self._missing("trial of a row: %s" % error.diag.message_detail) from error
            if _is_about_a_value(error):
                raise self._rejection(error) from error
            self.close()  # a new connection may have other rights, or lead to another server
            raise self._unavailable(error) from error
        except InputError:
            raise
        except ValueError as error:  # text that PostgreSQL cannot store, such as a NUL character
            raise InputError(
                "the database %s cannot hold a value: %s" % (self.where, error)
            ) from error

    @contextlib.contextmanager
    def single_transaction(self) -> Iterator[Any]:
        """Yield a cursor in one transaction that is too large to be repeated by itself.

        Raises:
            InputError: The database rejects a value, or the connection is lost. In both cases
                nothing has been changed.
        """
        with self._open_connection() as connection, connection.cursor() as cursor:
            yield cursor

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Yield the connection in a transaction that reads the database as of its beginning.

        Raises:
            InputError: The connection is lost.
        """
        with self._open_connection() as connection:
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            yield connection

    @contextlib.contextmanager
    def _open_connection(self) -> Iterator[Connection]:
        """The connection in a transaction that is not repeated when the connection is lost."""
        try:
            connection = self._connection or self._connect_again()
            with watched(connection), connection:
                yield connection
        except psycopg2.Error as error:
            if _is_about_a_value(error):
                raise self._rejection(error) from None
            self.close()
            raise InputError("%s; nothing was changed" % self._problem(error)) from None

    def _connect_again(self) -> Connection:
        """Open a new connection to the same database."""
        connection = connect(self._dsn, self._read_only, self._lock_timeout)
        try:
            new_identity = identity(connection, self.where)
            if new_identity != self.identity:
                raise InputError(
                    "the database %s is not the one that it was before: its UUID was %s and is %s"
                    % (self.where, self.identity, new_identity)
                )
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def _problem(self, error: psycopg2.Error) -> str:
        if error.pgcode in _LACKING_RIGHTS:
            text = "the database %s does not allow this user to do that: %s"
        elif error.pgcode is None:
            text = "the database %s does not answer: %s"
        else:
            text = "the database %s reports an error: %s"
        return text % (self.where, reason(error))

    def _rejection(self, error: psycopg2.Error) -> InputError:
        return InputError("the database %s rejects a value: %s" % (self.where, reason(error)))

    def _unavailable(self, error: psycopg2.Error) -> DatabaseUnavailable:
        if error.pgcode is None or error.pgcode.startswith(_DATABASE_ERRORS):
            return DatabaseUnavailable(self._problem(error))
        return ChangeRefused(self._problem(error))

    def _missing(self, what: str) -> TrialMissing:
        return TrialMissing("the database %s does not have the %s" % (self.where, what))


def _is_about_a_value(error: psycopg2.Error) -> bool:
    """Whether the database will never accept the value.

    A row that is referred to may be missing because another program has just deleted it.
    """
    code = error.pgcode or ""
    return code.startswith(_VALUE_ERRORS) and code != _MISSING_REFERENCE


def _is_missing_trial(error: psycopg2.Error) -> bool:
    return error.pgcode == _MISSING_REFERENCE and error.diag.table_name == "evaluation"
