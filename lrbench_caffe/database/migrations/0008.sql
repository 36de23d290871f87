-- Rows without a Top-1, of trainings without a test net, and the metrics of the other heads of a net.

ALTER TABLE evaluation ALTER COLUMN top1 DROP NOT NULL;
ALTER TABLE evaluation ALTER COLUMN top5 DROP NOT NULL;
ALTER TABLE evaluation ADD COLUMN heads jsonb
    CONSTRAINT evaluation_heads_are_named CHECK (jsonb_typeof(heads) = 'object');
ALTER TABLE evaluation
    ADD CONSTRAINT evaluation_top1_with_top5 CHECK ((top1 IS NULL) = (top5 IS NULL));
COMMENT ON COLUMN evaluation.top1 IS
    'Top-1 accuracy; NULL, with top5, for a training without a test net, which has its train loss only';
COMMENT ON COLUMN evaluation.heads IS
    'top1, top5, ac, cd and cdac of the other heads of the test net, by their names; NULL if it has only one';
COMMENT ON COLUMN trial.solver IS
    'the SolverParameter by Caffe''s field names, with batch_size and test_batch_size; head and test_net name what is
     measured, if there are several';
COMMENT ON COLUMN study.beginning IS
    'what an evaluation read from the database at its first start; with it, a resumed evaluation takes the same decisions. Its
     key command is the command that resumes the study; without it, lrbench study run does';

CREATE OR REPLACE VIEW result AS
SELECT trial.id AS trial, policy.text AS policy, network.name AS network, dataset.name AS dataset, trial.seed, trial.state,
       best.ld, best.iteration AS iterations, best.top1, best.top5, best.ac, best.cd, best.cdac, policy.n_params,
       best.lr, best.train_loss, best.test_loss, task.classes, framework.name || ' ' || framework.version AS framework,
       trial.host, trial.started_at, trial.ended_at, trial.error, origin.name AS origin
FROM trial
JOIN policy ON policy.id = trial.policy_id
JOIN network ON network.id = trial.network_id
JOIN dataset ON dataset.id = trial.dataset_id
JOIN framework ON framework.id = trial.framework_id
LEFT JOIN task ON task.id = trial.task_id
LEFT JOIN origin ON origin.id = trial.origin_id
LEFT JOIN evaluation best ON best.trial_id = trial.id AND best.iteration = COALESCE(
    trial.best_iteration,  -- set at the end; a running trial is shown with its best row so far
    (SELECT iteration FROM evaluation WHERE trial_id = trial.id AND top1 IS NOT NULL ORDER BY top1 DESC, iteration LIMIT 1));
