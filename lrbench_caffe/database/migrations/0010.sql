-- Trials that were trained here count before imported ones, and values have bounds. Before this
-- version, an import could replace the results of others, and values near 1e308 made sums overflow.

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
COMMENT ON TABLE evaluation IS
    'one pass over the whole test set, recorded as soon as it is measured; NULL where there is no finite number, or one beyond
     single precision';

UPDATE evaluation SET
    lr = CASE WHEN abs(lr) < 1e39 THEN lr END,
    train_loss = CASE WHEN abs(train_loss) < 1e39 THEN train_loss END,
    test_loss = CASE WHEN abs(test_loss) < 1e39 THEN test_loss END,
    ld = CASE WHEN ld < 1e39 THEN ld END
WHERE GREATEST(abs(lr), abs(train_loss), abs(test_loss), ld) >= 1e39;
ALTER TABLE evaluation
    ADD CONSTRAINT evaluation_magnitude CHECK (GREATEST(abs(lr), abs(train_loss), abs(test_loss), ld) < 1e39);

UPDATE trial SET ended_at = started_at WHERE ended_at < started_at;
ALTER TABLE trial ADD CONSTRAINT trial_ends_after_start CHECK (ended_at >= started_at);

-- What was counted before is computed again.
DELETE FROM standing;
INSERT INTO standing (dataset_id, network_id, task_id, policy_id, settings, k0, seeds, top1, top1_std, iterations)
    SELECT dataset_id, network_id, task_id, policy_id, settings, k0, seeds, top1, top1_std, iterations FROM standing_of_trials;
