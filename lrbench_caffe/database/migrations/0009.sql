-- Rows name the set of samples that they are of, and have the metrics on the other sets of a solver
-- with several test nets. The rows of earlier versions are of the only set.

ALTER TABLE evaluation ADD COLUMN measured_on title NOT NULL DEFAULT 'test';
ALTER TABLE evaluation ADD COLUMN other_sets jsonb
    CONSTRAINT evaluation_other_sets_are_named CHECK (jsonb_typeof(other_sets) = 'object');
COMMENT ON COLUMN evaluation.measured_on IS
    'the set of samples that the metrics of this row are of; decisions are made by it';
COMMENT ON COLUMN evaluation.other_sets IS
    'test_loss, top1, top5, ac, cd, cdac and ld on the other sets of the solver''s test nets, by their names; NULL if there is
     only one set';
COMMENT ON COLUMN trial.solver IS
    'the SolverParameter by Caffe''s field names, with batch_size and test_batch_size; head and test_net name what is
     measured, if there are several; select and report name the sets that decide and that are reported, if they differ';

CREATE OR REPLACE VIEW result AS
SELECT trial.id AS trial, policy.text AS policy, network.name AS network, dataset.name AS dataset, trial.seed, trial.state,
       reported.ld, reported.iteration AS iterations, reported.top1, reported.top5, reported.ac, reported.cd, reported.cdac, policy.n_params,
       reported.lr, reported.train_loss, reported.test_loss, task.classes, framework.name || ' ' || framework.version AS framework,
       trial.host, trial.started_at, trial.ended_at, trial.error, origin.name AS origin,
       CASE WHEN best.other_sets ? (trial.solver->>'report') THEN trial.solver->>'report' ELSE best.measured_on END AS reported_on,
       best.measured_on AS selected_on, best.top1 AS selected_top1
FROM trial
JOIN policy ON policy.id = trial.policy_id
JOIN network ON network.id = trial.network_id
JOIN dataset ON dataset.id = trial.dataset_id
JOIN framework ON framework.id = trial.framework_id
LEFT JOIN task ON task.id = trial.task_id
LEFT JOIN origin ON origin.id = trial.origin_id
LEFT JOIN evaluation best ON best.trial_id = trial.id AND best.iteration = COALESCE(
    trial.best_iteration,  -- set at the end; a running trial is shown with its best row so far
    (SELECT iteration FROM evaluation WHERE trial_id = trial.id AND top1 IS NOT NULL ORDER BY top1 DESC, iteration LIMIT 1))
-- The best row, with the metrics on the set that is reported.
CROSS JOIN LATERAL jsonb_populate_record(best, COALESCE(best.other_sets->(trial.solver->>'report'), '{}')) AS reported;
COMMENT ON VIEW result IS
    'one row for each trial, with the eight metrics of the paper at its best evaluation: ld, iterations (#Iterations), top1,
     top5, ac, cd, cdac, n_params (#Param); the evaluation is the one with the highest Top-1 on the set selected_on';
