CREATE FUNCTION learning(solver jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS
    $$ SELECT solver - ARRAY['display', 'snapshot', 'snapshot_after_train', 'snapshot_format', 'debug_info', 'solver_mode', 'device_id',
                             'average_loss', 'test_initialization', 'layer_wise_reduce'] $$;
COMMENT ON FUNCTION learning IS 'the settings of a solver without those that change nothing about what is learnt';

CREATE VIEW standing_of_trials AS
SELECT dataset_id, network_id, task_id, policy_id, settings, CASE WHEN function = 'FIX' THEN (parameters->>'k0')::finite END AS k0,
       count(*) AS seeds, avg(best_top1) AS top1, stddev_samp(best_top1) AS top1_std, avg(best_iteration)::finite AS iterations
FROM (SELECT DISTINCT ON (dataset_id, network_id, policy_id, learning(solver), seed)
             dataset_id, network_id, task_id, policy_id, learning(solver) AS settings, best_top1, best_iteration
      FROM trial WHERE state = 'finished' AND best_top1 IS NOT NULL
      ORDER BY dataset_id, network_id, policy_id, learning(solver), seed, started_at DESC) AS latest
JOIN policy ON policy.id = policy_id
GROUP BY dataset_id, network_id, task_id, policy_id, settings, function, parameters;
COMMENT ON VIEW standing_of_trials IS 'what the table standing holds, from the trials themselves';

CREATE TABLE standing (
    dataset_id integer NOT NULL CONSTRAINT standing_dataset REFERENCES dataset ON DELETE CASCADE,
    network_id integer NOT NULL CONSTRAINT standing_network REFERENCES network ON DELETE CASCADE,
    task_id integer CONSTRAINT standing_task REFERENCES task,
    policy_id integer NOT NULL CONSTRAINT standing_policy REFERENCES policy ON DELETE CASCADE,
    settings jsonb NOT NULL,
    k0 finite,
    seeds bigint NOT NULL CONSTRAINT standing_seeds_positive CHECK (seeds > 0),
    top1 share NOT NULL,
    top1_std finite,
    iterations finite NOT NULL
);
CREATE INDEX standing_best ON standing (dataset_id, network_id, top1 DESC, iterations);
CREATE INDEX standing_constant ON standing (dataset_id, network_id, k0) WHERE k0 IS NOT NULL;
CREATE INDEX standing_key ON standing (policy_id, dataset_id, network_id);
COMMENT ON TABLE standing IS
    'how each policy did over its seeds on a dataset and a network, by settings; kept by triggers on trial, so that the best of a million
     trials are found at once';
COMMENT ON COLUMN standing.settings IS 'of the solver, as learning() has them';
COMMENT ON COLUMN standing.k0 IS 'the rate of a FIX policy; NULL for others';
COMMENT ON COLUMN standing.seeds IS 'finished trials; of a seed that was trained twice, the later one';
COMMENT ON COLUMN standing.top1 IS 'the mean of their best Top-1, with its sample standard deviation in top1_std';

-- A standing is always computed from all its trials and never incremented, so it stays correct if
-- a trial is recorded twice.
CREATE FUNCTION keep_standing() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    datasets integer[];
    networks integer[];
    policies integer[];
BEGIN
    SELECT array_agg(DISTINCT dataset_id), array_agg(DISTINCT network_id), array_agg(DISTINCT policy_id)
        INTO datasets, networks, policies FROM changed WHERE TG_OP <> 'INSERT' OR state = 'finished';
    IF datasets IS NULL THEN
        RETURN NULL;
    END IF;
    -- One at a time for a dataset, each seeing what the one before has done.
    PERFORM FROM dataset WHERE id = ANY (datasets) ORDER BY id FOR NO KEY UPDATE;
    DELETE FROM standing WHERE dataset_id = ANY (datasets) AND network_id = ANY (networks) AND policy_id = ANY (policies);
    INSERT INTO standing (dataset_id, network_id, task_id, policy_id, settings, k0, seeds, top1, top1_std, iterations)
        SELECT dataset_id, network_id, task_id, policy_id, settings, k0, seeds, top1, top1_std, iterations FROM standing_of_trials
        WHERE dataset_id = ANY (datasets) AND network_id = ANY (networks) AND policy_id = ANY (policies);
    RETURN NULL;
END $$;
CREATE TRIGGER standing_of_new AFTER INSERT ON trial REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION keep_standing();
CREATE TRIGGER standing_of_changed AFTER UPDATE ON trial REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION keep_standing();
CREATE TRIGGER standing_of_removed AFTER DELETE ON trial REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION keep_standing();
INSERT INTO standing (dataset_id, network_id, task_id, policy_id, settings, k0, seeds, top1, top1_std, iterations)
    SELECT dataset_id, network_id, task_id, policy_id, settings, k0, seeds, top1, top1_std, iterations FROM standing_of_trials;
