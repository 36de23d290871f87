"""Read trials from the database: as Python values, and with SQL.

docker/run python3 examples/read_database.py
"""

from lrbench_caffe import ranking
from lrbench_caffe.database import Store

SLOWEST = """
    SELECT policy, seed, extract(epoch FROM ended_at - started_at) AS seconds
    FROM result WHERE ended_at IS NOT NULL ORDER BY seconds DESC LIMIT 3
"""


def main() -> None:
    """Print the best policy of each task, and the trials that took longest."""
    with Store() as store:
        tasks = ranking.group_by_task(store.trials(state="finished", best_only=True))
        for (dataset, network), trials in tasks.items():
            best = ranking.rank(trials)[0]
            top1 = best.metrics["top1"].mean  # None if none of the trials was evaluated
            result = "not evaluated" if top1 is None else "Top-1 %.2f %%" % (100 * top1)
            print("%s on %s: %s, %s" % (network.name, dataset.name, best.label, result))
        for row in store.transaction(lambda cursor: _rows(cursor, SLOWEST)):
            print("%s, seed %d: %.1f s" % (row.policy, row.seed, row.seconds))


def _rows(cursor, query):
    cursor.execute(query)
    return cursor.fetchall()


if __name__ == "__main__":
    main()
