"""Conditions in SQL that select networks, datasets and origins by what a user calls them.

Several networks, or datasets, can have one name. The labels that
:func:`lrbench_caffe.ranking.network_label` and :func:`lrbench_caffe.ranking.dataset_label` make
select one of them.
"""

from __future__ import annotations

# The name, the hash, or NAME@HASH with four or more of the hash's digits.
NETWORK_MATCHES = """(network.name = %(network)s OR network.hash = %(network)s
           OR (length(%(network)s::text) >= length(network.name) + 5
               AND left(network.name || '@' || network.hash, length(%(network)s::text))
                   = %(network)s))"""

# The name, or NAME@SHAPE/TRAIN/TEST.
DATASET_MATCHES = """(dataset.name = %(dataset)s
           OR dataset.name || '@' || COALESCE(array_to_string(dataset.shape, 'x'), '?')
              || '/' || COALESCE(dataset.train_samples::text, '?')
              || '/' || COALESCE(dataset.test_samples::text, '?') = %(dataset)s)"""

# The name or the UUID of the database that a trial was imported from. The own UUID and LOCAL stand
# for the trials that were trained here. The own name does not: other databases may have it, too.
LOCAL = ""
ORIGIN_MATCHES = """CASE WHEN %(origin)s = '' THEN trial.origin_id IS NULL
           ELSE COALESCE(trial.origin_id, (SELECT id FROM origin WHERE here)) IN (
               SELECT id FROM origin
               WHERE database::text = %(origin)s OR (name = %(origin)s AND NOT here)) END"""
