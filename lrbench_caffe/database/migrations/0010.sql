-- Of several trials of a policy with the same seed, those that were trained here count before
-- imported ones. Before this version, an import could replace the results of others.

CREATE OR REPLACE VIEW standing_of_trials AS
SELECT dataset_id, network_id, task_id, policy_id, settings, CASE WHEN function = 'FIX' THEN (parameters->>'k0')::finite END AS k0,
       count(*) AS seeds, avg(best_top1) AS top1, stddev_samp(best_top1) AS top1_std, avg(best_iteration)::finite AS iterations
FROM (SELECT DISTINCT ON (dataset_id, network_id, policy_id, learning(solver), seed)
             dataset_id, network_id, task_id, policy_id, learning(solver) AS settings, best_top1, best_iteration
      FROM trial WHERE state = 'finished' AND best_top1 IS NOT NULL
      ORDER BY dataset_id, network_id, policy_id, learning(solver), seed, origin_id IS NULL DESC, started_at DESC) AS latest
JOIN policy ON policy.id = policy_id
GROUP BY dataset_id, network_id, task_id, policy_id, settings, function, parameters;
COMMENT ON COLUMN standing.seeds IS
    'the number of finished trials; of several trials with the same seed only the latest counts, and those that were trained
     here before imported ones';

-- What was counted before is computed again.
DELETE FROM standing;
INSERT INTO standing (dataset_id, network_id, task_id, policy_id, settings, k0, seeds, top1, top1_std, iterations)
    SELECT dataset_id, network_id, task_id, policy_id, settings, k0, seeds, top1, top1_std, iterations FROM standing_of_trials;
